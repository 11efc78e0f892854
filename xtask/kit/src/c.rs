//! Builds drivers written in C: with clang, over the same staged headers and import libraries, linked by the linker that comes with Rust.

use std::ffi::OsStr;
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
    "-ffunction-sections",
    "-fdata-sections",
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
    "/opt:ref,icf",
    "/pdbaltpath:%_PDB%",
    "/section:INIT,ERD",
];

/// A driver in C: its sources, and the directories with the headers that they include.
struct Driver<'a> {
    name: &'a OsStr,
    sources: Vec<PathBuf>,
    includes: Vec<&'a Path>,
}

/// Builds the driver of one C source file if it is missing or stale. What it includes of its own lies in the same directory.
///
/// # Errors
///
/// What the kit is made from is not installed, or the driver does not compile.
pub fn c_driver(source: &Path) -> Result<Artifacts> {
    let name = source.file_stem().with_context(|| format!("{}: no file name", source.display()))?;
    build(&Driver { name, sources: vec![source.to_owned()], includes: Vec::new() })
}

/// The same for all C source files of a directory, whose name is the driver's; `include` has headers that it shares with other drivers.
///
/// # Errors
///
/// As [`c_driver`], or the directory has no C source file.
pub fn c_driver_in(directory: &Path, include: &Path) -> Result<Artifacts> {
    let name = directory.file_name().with_context(|| format!("{}: no file name", directory.display()))?;
    let sources = files(directory, "c")?;
    ensure!(!sources.is_empty(), "{}: no C source file", directory.display());
    build(&Driver { name, sources, includes: vec![include] })
}

fn build(driver: &Driver<'_>) -> Result<Artifacts> {
    let name = driver.name;
    let mingw = Mingw::find().with_context(stage::not_installed)?;
    let clang = Compiler::find().with_context(stage::not_installed)?;
    let target = root().join("target");
    let kit = stage::kit(target.join("kit"))?;
    let folder = target.join(TARGET).join("c").join(name);
    let fingerprint = driver.fingerprint()?;
    staged::directory(&folder, fingerprint, |scratch| {
        let kernel = kit.include().join("km");
        let system = [clang.include.clone(), kernel.join("crt"), kernel, mingw.include.clone()];
        let mut link = Command::new(linker()?);
        link.args(LINK).arg(format!("/out:{}", scratch.join(name).with_extension("sys").display()));
        for source in &driver.sources {
            let object = scratch.join(source.file_stem().unwrap_or(name)).with_extension("obj");
            let mut compile = Command::new(&clang.program);
            compile.arg(format!("--target={TARGET}")).args(COMPILE);
            compile.arg("-include").arg(root().join("xtask/kit/intrinsics.h"));
            compile.args(driver.includes.iter().flat_map(|directory| ["-I".as_ref(), directory.as_os_str()]));
            compile.args(system.iter().flat_map(|directory| ["-isystem".as_ref(), directory.as_os_str()]));
            run(compile.arg("-o").arg(&object).arg(source))?;
            link.arg(object);
        }
        run(link.args(["ntoskrnl.lib", "hal.lib", "wmilib.lib"].map(|library| kit.libraries().join(library))))
    })?;
    let file = folder.join(name);
    Ok(Artifacts { sys: file.with_extension("sys"), pdb: file.with_extension("pdb") })
}

impl Driver<'_> {
    /// The sources, the headers beside them and in the directories that they include from, and how all is built.
    fn fingerprint(&self) -> Result<u64> {
        let beside = self.sources.iter().filter_map(|source| source.parent());
        let mut inputs = self.sources.clone();
        for directory in beside.chain(self.includes.iter().copied()) {
            inputs.extend(files(directory, "h")?);
        }
        inputs.sort();
        inputs.dedup();
        let read = |file: &PathBuf| fs::read(file).with_context(|| format!("reading {}", file.display()));
        let contents: Vec<Vec<u8>> = inputs.iter().map(read).collect::<Result<_>>()?;
        let mut inputs: Vec<&[u8]> =
            vec![include_bytes!("c.rs"), include_bytes!("../ntifs.h"), include_bytes!("../intrinsics.h")];
        inputs.extend(contents.iter().map(Vec::as_slice));
        Ok(staged::fingerprint(&inputs))
    }
}

/// The files of a directory with this extension, in order.
fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|own| own == extension));
    files.sort();
    Ok(files)
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
