//! The package: its files, their hashes and their signatures, looked at by other programs and libraries than those that made them.
//!
//! The catalog is made by xtask and verified by osslsigncode and openssl; signatures are made by osslsigncode and verified by openssl.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use authenticode::{AttributeCertificateIterator, AuthenticodeSignature, authenticode_digest};
use cms::{content_info::ContentInfo, signed_data::SignedData};
use der::asn1::{Any, OctetString};
use der::{Decode, Encode};
use object_39::read::pe::PeFile64;
use sha2::{Digest, Sha256};
use xtask::package::{self, Package, inf::Inf};
use zip::ZipArchive;

/// Where this run's package lies, with its certificate.
fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("package")
}

/// The package, made once.
fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let built = xtask::driver("hotadd").expect("the driver builds");
        package::make(&built, &scratch().join("files")).unwrap_or_else(|error| panic!("{error:#}"))
    })
}

fn file(name: &str) -> PathBuf {
    package().directory.join(name)
}

fn contents(name: &str) -> Vec<u8> {
    fs::read(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the tests trust.
fn certificate() -> PathBuf {
    package();
    scratch().join("test-certificate/certificate.pem")
}

/// Writes a changed copy of a file, from which a signature must not be accepted.
fn changed(name: &str, change: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = contents(name);
    change(&mut bytes);
    let path = scratch().join(format!("changed-{name}"));
    fs::write(&path, bytes).expect("the copy can be written");
    path
}

fn verify(arguments: &[&dyn AsRef<Path>]) -> Output {
    let mut command = Command::new("osslsigncode");
    command.arg("verify").arg("-CAfile").arg(certificate());
    command.args(arguments.iter().map(|argument| argument.as_ref().as_os_str()));
    command.output().expect("osslsigncode runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether openssl accepts the PKCS #7 message `message`; `content` is what it signs.
fn openssl_accepts(name: &str, message: &[u8], content: &[u8]) -> bool {
    let [signature, signed] = ["p7", "content"].map(|extension| scratch().join(name).with_extension(extension));
    fs::write(&signature, message).expect("the message can be written");
    fs::write(&signed, content).expect("the content can be written");
    let mut command = Command::new("openssl");
    command.args(["smime", "-verify", "-inform", "DER", "-purpose", "any", "-in"]).arg(signature);
    command.arg("-content").arg(signed).arg("-CAfile").arg(certificate()).args(["-out", "/dev/null"]);
    command.output().expect("openssl runs").status.success()
}

/// The signature in a signed driver, as a message of its own, with what the library `authenticode` makes of it.
fn signature(sys: &[u8]) -> (Vec<u8>, AuthenticodeSignature) {
    let image = PeFile64::parse(sys).expect("an image");
    let mut table = AttributeCertificateIterator::new(&image).expect("a sound table").expect("a signature");
    let entry = table.next().expect("one entry").expect("a sound entry");
    assert!(table.next().is_none(), "one signature");
    let signature = entry.get_authenticode_signature().expect("an Authenticode signature");
    (entry.data.to_vec(), signature)
}

/// What a signed message signs: the list's contents, without the tag and the length of the sequence.
fn signed(message: &[u8]) -> Any {
    let message = ContentInfo::from_der(message).expect("a PKCS #7 message");
    let message: SignedData = message.content.decode_as().expect("signed data");
    message.encap_content_info.econtent.expect("with what is signed")
}

/// The hash of each member by its name, from the catalog.
fn members() -> BTreeMap<String, Vec<u8>> {
    let list = Vec::<Any>::from_der(&signed(&contents("hotadd.cat")).to_der().expect("a list")).expect("a sequence");
    let subjects = list.get(4).expect("it has subjects").to_der().expect("they can be encoded");
    let subjects = Vec::<Vec<Any>>::from_der(&subjects).expect("a sequence of sequences");
    let known = ["hotadd.sys", "hotadd.inf"];
    let hash_and_name = |subject: &Vec<Any>| {
        let hash: OctetString = subject[0].decode_as().expect("a hash");
        let attributes = subject[1].to_der().expect("the attributes");
        let named = known.into_iter().find(|name| {
            let text: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            attributes.windows(text.len()).any(|window| window == text)
        });
        (named.expect("a name").to_owned(), hash.as_bytes().to_vec())
    };
    subjects.iter().map(hash_and_name).collect()
}

#[test]
fn it_has_the_files_that_cargo_make_puts_there_on_windows() {
    let there = fs::read_dir(&package().directory).expect("it is a directory");
    let there: BTreeSet<_> = there.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();

    assert_eq!(there, BTreeSet::from(Package::names()));
}

/// What `cargo make` does on Windows stands in the makefile that wdk-build brings; ours replaces none of the tasks that name files.
#[test]
fn cargo_make_gives_the_files_the_same_names() {
    let read = |path: &str| -> toml::Table {
        let path = kit::root().join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    package();
    let theirs = read("target/vendor/wdk-build/rust-driver-makefile.toml");
    let ours = read("Makefile.toml");
    let name = |extension: &str| format!("hotadd.{extension}");
    let crate_name = "${CARGO_MAKE_CRATE_FS_NAME}";

    let mut named = BTreeSet::new();
    for (task, says, file) in [
        ("stampinf", format!("{crate_name}.cat"), name("cat")),
        ("sign-cat", format!("{crate_name}_package/{crate_name}.cat"), name("cat")),
        ("copy-inf-to-package", "\"{}.inf\"".to_owned(), name("inf")),
        ("copy-pdb-to-package", "\"{}.pdb\"".to_owned(), name("pdb")),
        ("copy-driver-binary-to-package", "\"{}.{driver_binary_extension}\"".to_owned(), name("sys")),
        ("copy-certificate-to-package", "WDRLocalTestCert.cer".to_owned(), "WDRLocalTestCert.cer".to_owned()),
    ] {
        let script = theirs["tasks"][task].to_string();
        assert!(script.contains(&says) || script.replace("\\\"", "\"").contains(&says), "{task}: {script}");
        assert!(
            !ours["tasks"].as_table().is_some_and(|tasks| tasks.contains_key(task)),
            "Makefile.toml replaces {task}"
        );
        named.insert(file);
    }
    assert_eq!(named, BTreeSet::from(Package::names()));
}

#[test]
fn the_zip_has_the_same_files() {
    let mut zip = ZipArchive::new(File::open(&package().zip).expect("it is there")).expect("it is a zip");

    assert_eq!(zip.len(), Package::names().len());
    for name in Package::names() {
        let mut unpacked = Vec::new();
        zip.by_name(&name).expect("the file").read_to_end(&mut unpacked).expect("it can be unpacked");
        assert_eq!(unpacked, contents(&name), "{name}");
    }
}

#[test]
fn the_inf_has_the_date_of_the_package_and_the_version_of_the_driver() {
    let text = String::from_utf8(contents("hotadd.inf")).expect("ASCII");
    let inf = Inf::parse(&text).expect("an INF");

    let version = inf.entries("Version", "DriverVer").next().expect("it has a version");
    assert_eq!(version.value(1), concat!(env!("CARGO_PKG_VERSION"), ".0"));
    assert!(version.value(0).ends_with(|last: char| last.is_ascii_digit()), "{}", version.value(0));
    assert!(
        text.lines().count() > 50 && text.matches("\r\n").count() == text.matches('\n').count(),
        "lines of Windows"
    );
}

#[test]
fn osslsigncode_accepts_both_signatures_and_the_driver_by_the_catalog() {
    let (sys, catalog) = (file("hotadd.sys"), file("hotadd.cat"));

    for arguments in
        [vec![&"-in" as &dyn AsRef<Path>, &sys], vec![&"-in", &catalog], vec![&"-catalog", &catalog, &"-in", &sys]]
    {
        let output = verify(&arguments);
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn osslsigncode_rejects_a_driver_that_was_changed() {
    let sys = changed("hotadd.sys", |bytes| bytes[0x1000] ^= 1);
    let catalog = file("hotadd.cat");

    for arguments in [vec![&"-in" as &dyn AsRef<Path>, &sys], vec![&"-catalog", &catalog, &"-in", &sys]] {
        let output = verify(&arguments);
        assert!(!output.status.success(), "{}", said(&output));
    }
}

#[test]
fn openssl_accepts_the_driver_s_signature_over_the_driver_s_hash() {
    let sys = contents("hotadd.sys");
    let (message, signature) = signature(&sys);
    let content = signature.encapsulated_content().expect("it signs something");

    assert!(openssl_accepts("driver", &message, content));
    assert!(!openssl_accepts("nothing", &message, &content[1..]));

    let mut hash = Sha256::new();
    authenticode_digest(&PeFile64::parse(sys.as_slice()).expect("an image"), &mut hash).expect("it can be hashed");
    assert_eq!(signature.digest(), hash.finalize().as_slice());
}

#[test]
fn openssl_accepts_the_catalog_s_signature() {
    let catalog = contents("hotadd.cat");
    let list = signed(&catalog);

    assert!(openssl_accepts("catalog", &catalog, list.value()));
    assert!(!openssl_accepts("part", &catalog, &list.value()[1..]));
}

#[test]
fn the_catalog_has_the_hash_that_the_driver_s_signature_signs_and_the_inf_s_own() {
    let (_, signature) = signature(&contents("hotadd.sys"));
    let inf = Command::new("openssl").args(["dgst", "-sha256", "-binary"]).arg(file("hotadd.inf")).output();

    let expected = BTreeMap::from([
        ("hotadd.sys".to_owned(), signature.digest().to_vec()),
        ("hotadd.inf".to_owned(), inf.expect("openssl runs").stdout),
    ]);
    assert_eq!(members(), expected);
}

#[test]
fn the_catalog_names_its_systems_and_the_devices_of_the_inf() {
    let catalog = contents("hotadd.cat");

    for text in ["_v100_X64,Server_v100_X64", "2:10.0", r"pci\ven_1234&dev_11e8", r"root\hotadd"] {
        let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        assert!(catalog.windows(bytes.len()).any(|window| window == bytes), "{text} is not in the catalog");
    }
}

/// Signing changes the file: the checksum in it must be that of the signed one, or Windows does not load it.
#[test]
fn the_signed_driver_has_the_checksum_of_the_signed_file() {
    let sys = contents("hotadd.sys");
    let field = u32::from_le_bytes([sys[0x3C], sys[0x3D], sys[0x3E], sys[0x3F]]) as usize + 88;

    let mut sum: u64 = 0;
    for (index, pair) in sys.chunks(2).enumerate() {
        if index * 2 != field && index * 2 != field + 2 {
            sum += u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 8;
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
    }

    let checksum = u32::from_le_bytes([sys[field], sys[field + 1], sys[field + 2], sys[field + 3]]);
    assert_eq!(u64::from(checksum), sum + sys.len() as u64);
}

#[test]
fn the_certificate_is_for_code_alone_and_goes_with_the_package() {
    let exported = contents("WDRLocalTestCert.cer");
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-inform", "DER", "-subject", "-ext", "extendedKeyUsage,basicConstraints", "-in"]);
    let output = command.arg(file("WDRLocalTestCert.cer")).output().expect("openssl runs");

    let said = said(&output);
    assert!(said.contains("WDRLocalTestCert") && said.contains("Code Signing") && said.contains("CA:FALSE"), "{said}");
    let (_, signature) = signature(&contents("hotadd.sys"));
    let signer =
        signature.certificates().next().expect("the signer's certificate").to_der().expect("it can be encoded");
    assert_eq!(signer, exported);
}
