//! Builds drivers written in C: with clang, over the same staged headers and import libraries, linked by the linker that comes with Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::{Artifacts, TARGET, root};
use crate::headers::{Compiler, Mingw};
use crate::{stage, staged};

/// How C is compiled. A driver has its own entry point and no C runtime; what it warns of is an error.
const COMPILE: &[&str] = &[
    "-c",
    "-std=c11",
    "-O2",
    "-g",
    "-gcodeview",
    "-ffreestanding",
    "-fasynchronous-unwind-tables",
    "-fms-extensions",
    "-fno-ms-compatibility",
    "-Wall",
    "-Wextra",
    "-Wno-sign-compare",
    "-Werror",
    "-nostdinc",
    "-D_WIN32_WINNT=0x0A00",
    "-DNTDDI_VERSION=0x0A000000",
];

/// How it is linked. The image has no path of this machine in it, and no time.
const LINK: &[&str] = &[
    "-flavor",
    "link",
    "/nologo",
    "/driver",
    "/subsystem:native",
    "/entry:DriverEntry",
    "/nodefaultlib",
    "/dynamicbase",
    "/brepro",
    "/debug",
    "/pdbaltpath:%_PDB%",
    "/section:INIT,ERD",
];

/// Builds the driver of one C source file if it is missing or stale. What it includes of its own lies in the same directory.
///
/// # Errors
///
/// What the kit is made from is not installed, or the driver does not compile.
pub fn c_driver(source: &Path) -> Result<Artifacts> {
    let name = source.file_stem().with_context(|| format!("{}: no file name", source.display()))?;
    let mingw = Mingw::find().with_context(stage::not_installed)?;
    let clang = Compiler::find().with_context(stage::not_installed)?;
    let target = root().join("target");
    let kit = stage::kit(target.join("kit"))?;
    let folder = target.join(TARGET).join("c").join(name);
    let fingerprint = fingerprint(source)?;
    staged::directory(&folder, fingerprint, |scratch| {
        let object = scratch.join(name).with_extension("obj");
        let kernel = kit.include().join("km");
        let includes = [clang.include.clone(), kernel.join("crt"), kernel, mingw.include.clone()];
        let mut compile = Command::new(&clang.program);
        compile.arg(format!("--target={TARGET}")).args(COMPILE);
        compile.arg("-include").arg(root().join("xtask/kit/intrinsics.h"));
        compile.args(includes.iter().flat_map(|directory| ["-isystem".as_ref(), directory.as_os_str()]));
        run(compile.arg("-o").arg(&object).arg(source))?;
        let mut link = Command::new(linker()?);
        link.args(LINK).arg(format!("/out:{}", scratch.join(name).with_extension("sys").display())).arg(&object);
        run(link.args(["ntoskrnl.lib", "hal.lib", "wmilib.lib"].map(|library| kit.libraries().join(library))))
    })?;
    let file = folder.join(name);
    Ok(Artifacts { sys: file.with_extension("sys"), pdb: file.with_extension("pdb") })
}

/// The sources in the directory, and how they are built.
fn fingerprint(source: &Path) -> Result<u64> {
    let directory = source.parent().with_context(|| format!("{}: no directory", source.display()))?;
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file == source || file.extension().is_some_and(|extension| extension == "h"));
    files.sort();
    let read = |file: &PathBuf| fs::read(file).with_context(|| format!("reading {}", file.display()));
    let contents: Vec<Vec<u8>> = files.iter().map(read).collect::<Result<_>>()?;
    let mut inputs: Vec<&[u8]> =
        vec![include_bytes!("c.rs"), include_bytes!("../ntifs.h"), include_bytes!("../intrinsics.h")];
    inputs.extend(contents.iter().map(Vec::as_slice));
    Ok(staged::fingerprint(&inputs))
}

/// The linker in Rust's toolchain.
fn linker() -> Result<PathBuf> {
    let print = |what: &str| -> Result<String> {
        let output = Command::new("rustc").args(["--print", what]).current_dir(root()).output()?;
        ensure!(output.status.success(), "`rustc --print {what}` ended with {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let sysroot = PathBuf::from(print("sysroot")?);
    Ok(sysroot.join("lib/rustlib").join(print("host-tuple")?).join("bin/rust-lld"))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("running {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} ended with {}:\n{}{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
