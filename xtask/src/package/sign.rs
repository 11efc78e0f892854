//! Signatures for test machines: a certificate made by openssl, with which osslsigncode signs drivers and catalogs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The certificate's name and file, as wdk-build has them on Windows.
pub const CERTIFICATE: &str = "WDRLocalTestCert";

/// Signs, and leaves no trace of what is not signed.
const SIGNER: &str = "osslsigncode";
const MAKER: &str = "openssl";

/// The programs that packaging needs and that are not installed.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let is_missing = |program: &&str| Command::new(program).arg("version").output().is_err();
    [SIGNER, MAKER].into_iter().filter(is_missing).collect()
}

/// A key with a certificate that nobody but a test machine trusts.
pub struct TestCertificate {
    directory: PathBuf,
}

impl TestCertificate {
    /// The certificate in `directory`. Makes it where there is none, so that a test machine has to be told once.
    ///
    /// # Errors
    ///
    /// openssl is not there or cannot make one.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let certificate = Self { directory: directory.to_owned() };
        if certificate.pem().exists() && certificate.key().exists() {
            return Ok(certificate);
        }
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        run(Command::new(MAKER)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", "3650"])
            .arg("-subj")
            .arg(format!("/CN={CERTIFICATE}"))
            // What Windows asks of a signer: a leaf that is for code.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", "keyUsage=critical,digitalSignature"])
            .args(["-addext", "extendedKeyUsage=codeSigning"])
            .arg("-keyout")
            .arg(certificate.key())
            .arg("-out")
            .arg(certificate.pem()))?;
        Ok(certificate)
    }

    fn key(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    /// The certificate as text.
    #[must_use]
    pub fn pem(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    /// Writes the certificate as Windows imports it.
    ///
    /// # Errors
    ///
    /// openssl cannot convert it.
    pub fn export(&self, to: &Path) -> Result<()> {
        run(Command::new(MAKER).args(["x509", "-outform", "DER", "-in"]).arg(self.pem()).arg("-out").arg(to))
    }

    /// Signs a driver or a catalog in its place, with SHA-256.
    ///
    /// # Errors
    ///
    /// osslsigncode is not there or cannot sign it.
    pub fn sign(&self, file: &Path) -> Result<()> {
        let signed = file.with_extension("signed");
        // It does not overwrite.
        if signed.exists() {
            fs::remove_file(&signed).with_context(|| format!("removing {}", signed.display()))?;
        }
        run(Command::new(SIGNER)
            .args(["sign", "-h", "sha256", "-certs"])
            .arg(self.pem())
            .arg("-key")
            .arg(self.key())
            .arg("-in")
            .arg(file)
            .arg("-out")
            .arg(&signed))?;
        fs::rename(&signed, file).with_context(|| format!("replacing {}", file.display()))
    }
}

/// Runs a program that says nothing unless it fails.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("running {program}; `cargo xtask setup` installs it"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "{program} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&said).trim()
    );
    Ok(())
}
