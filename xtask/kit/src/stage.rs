//! Stages a kit under `target/kit` that `wdk-build` takes for the WDK.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use implib::{Flavor, ImportLibrary, MachineType};
use object::read::archive::ArchiveFile;

use crate::headers::{Clang, Compiler, Mingw};
#[cfg(unix)]
use crate::program;
use crate::staged;

/// The version the kit claims to have. Any will do that `wdk-build` accepts.
const VERSION: &str = "10.0.26100.0";

/// Headers that take the place of, or add to, those of mingw-w64.
const OVERLAYS: &[(&str, &str)] = &[
    ("ntifs.h", include_str!("../ntifs.h")),
    // Intrinsics are of no use to bindgen, which trips over the tile types in them.
    ("immintrin.h", "#pragma once\n"),
    ("x86intrin.h", "#pragma once\n"),
];

/// An import library of the kit.
struct Library {
    /// The name without `.lib`, as mingw-w64 has it too.
    name: &'static str,
    /// The module that the loader looks the names up in.
    module: &'static str,
    /// Exports of every supported Windows that mingw-w64 does not list.
    additions: &'static [&'static str],
}

const LIBRARIES: &[Library] = &[
    Library {
        name: "ntoskrnl",
        module: "ntoskrnl.exe",
        additions: &[
            "EtwSetInformation",
            "ExAllocatePool2",
            "ExAllocatePool3",
            "IoOpenDriverRegistryKey",
            "KeQueryInterruptTimePrecise",
            "KeQuerySystemTimePrecise",
            "MmMapIoSpaceEx",
            "__chkstk",
        ],
    },
    Library { name: "hal", module: "hal.dll", additions: &[] },
    Library { name: "wmilib", module: "wmilib.sys", additions: &[] },
];

/// Libraries that the crates ask the linker for and use nothing of: stack protection, which Rust code has none of, and the
/// user-mode library that `tracelogging` names.
const EMPTY_LIBRARIES: &[&str] = &["BufferOverflowFastFailK", "rpcrt4"];

/// An `ar` archive without members.
const EMPTY_ARCHIVE: &[u8] = b"!<arch>\n";

/// A staged kit, and what to tell bindgen about it.
pub struct Kit {
    /// What `WDKContentRoot` is to name.
    pub root: PathBuf,
    /// What `LIBCLANG_PATH` is to name.
    pub libclang: PathBuf,
    /// What `BINDGEN_EXTRA_CLANG_ARGS` is to hold.
    pub clang_args: String,
}

/// Something that builds or tests need and the distribution brings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Requirement {
    /// The kernel's headers and import libraries of mingw-w64.
    KernelHeaders,
    /// libclang and the headers that belong to it, of one version.
    Libclang,
    /// The compiler, for drivers in C.
    Clang,
    /// The linker, for programs.
    Linker,
    /// What starts programs.
    Wine,
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::KernelHeaders => "the kernel headers and import libraries of mingw-w64 for x86_64",
            Self::Libclang => "libclang 14 or newer with its headers",
            Self::Clang => "clang 14 or newer",
            Self::Linker => "gcc of mingw-w64 for x86_64",
            Self::Wine => "Wine for 64-bit programs",
        })
    }
}

/// Whether a kit is to be staged: `WDKContentRoot` names no real one.
pub fn is_wanted() -> bool {
    env::var_os("WDKContentRoot").is_none()
}

/// What is not installed of all that builds and tests need.
#[must_use]
pub fn missing() -> Vec<Requirement> {
    let mut missing = Vec::new();
    if is_wanted() && Mingw::find().is_none() {
        missing.push(Requirement::KernelHeaders);
    }
    if Clang::find().is_none() {
        missing.push(Requirement::Libclang);
    }
    if Compiler::find().is_none() {
        missing.push(Requirement::Clang);
    }
    #[cfg(unix)]
    missing.extend(program::missing());
    missing
}

impl Kit {
    /// The headers.
    pub fn include(&self) -> PathBuf {
        self.root.join("Include").join(VERSION)
    }

    /// The import libraries.
    pub fn libraries(&self) -> PathBuf {
        self.root.join("Lib").join(VERSION).join("km/x64")
    }
}

/// The directory of libclang.
pub fn libclang() -> Result<PathBuf> {
    Clang::find().map(|clang| clang.lib).with_context(not_installed)
}

/// Stages the kit in `root`, unless it is there already.
pub fn kit(root: PathBuf) -> Result<Kit> {
    let mingw = Mingw::find().with_context(not_installed)?;
    let clang = Clang::find().with_context(not_installed)?;
    staged::directory(&root, fingerprint(&mingw)?, |scratch| stage(&mingw, scratch))?;
    let clang_args = format!(
        "--target=x86_64-w64-windows-gnu -nostdinc -isystem {} -isystem {} -fno-ms-compatibility \
         -D_WIN32_WINNT=0x0A00 -DNTDDI_VERSION=0x0A000000",
        clang.include.display(),
        mingw.include.display()
    );
    Ok(Kit { root, libclang: clang.lib, clang_args })
}

pub fn not_installed() -> String {
    let missing: Vec<_> = missing().iter().map(ToString::to_string).collect();
    format!("not installed: {}. Run `cargo xtask setup`", missing.join("; "))
}

/// Everything the kit is made from: this program's part, and the distribution's, which changes with its packages.
fn fingerprint(mingw: &Mingw) -> Result<u64> {
    let library = mingw.import_library("ntoskrnl");
    let modified = fs::metadata(&library)
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("reading the date of {}", library.display()))?;
    let modified = modified.duration_since(UNIX_EPOCH)?.as_nanos().to_le_bytes();
    let mut inputs: Vec<&[u8]> = vec![include_bytes!("stage.rs"), &modified];
    inputs.extend(OVERLAYS.iter().map(|(_, text)| text.as_bytes()));
    Ok(staged::fingerprint(&inputs))
}

fn stage(mingw: &Mingw, root: &Path) -> Result<()> {
    let include = root.join("Include").join(VERSION);
    let kernel = include.join("km");
    let overlays = kernel.join("crt");
    let libraries = root.join("Lib").join(VERSION).join("km/x64");
    for directory in [&overlays, &include.join("shared"), &libraries] {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    copy_headers(&mingw.ddk, &kernel)?;
    for (name, text) in OVERLAYS {
        write(&overlays.join(name), text.as_bytes())?;
    }
    for name in EMPTY_LIBRARIES {
        write(&libraries.join(format!("{name}.lib")), EMPTY_ARCHIVE)?;
    }
    LIBRARIES.iter().try_for_each(|library| import_library(mingw, library, &libraries))
}

/// Copies the headers of one directory; Debian's are symbolic links, which the copy does not keep.
fn copy_headers(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let source = entry?.path();
        if source.is_file()
            && let Some(name) = source.file_name()
        {
            fs::copy(&source, to.join(name)).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}

/// Writes the MSVC-flavoured import library that `library` describes.
fn import_library(mingw: &Mingw, library: &Library, to: &Path) -> Result<()> {
    let source = mingw.import_library(library.name);
    let bytes = fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
    let definition = module_definition(library, &symbols(&bytes).with_context(|| source.display().to_string())?);
    let path = to.join(format!("{}.lib", library.name));
    let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    ImportLibrary::new(&definition, MachineType::AMD64, Flavor::Msvc)
        .and_then(|import| import.write_to(&mut file))
        .with_context(|| format!("writing {}", path.display()))
}

/// The names in the symbol table of an archive.
fn symbols(archive: &[u8]) -> Result<Vec<String>> {
    let archive = ArchiveFile::parse(archive)?;
    let table = archive.symbols()?.context("has no symbol table")?;
    table.map(|symbol| Ok(String::from_utf8(symbol?.name().to_vec())?)).collect()
}

/// The text of a module definition file: the names that `symbols` has an import pointer for, and the additions.
fn module_definition(library: &Library, symbols: &[String]) -> String {
    let defined: BTreeSet<&str> = symbols.iter().map(String::as_str).collect();
    let imported = defined.iter().filter_map(|symbol| symbol.strip_prefix("__imp_"));
    // Functions have a thunk of their own name beside the pointer; data has the pointer only.
    let exports = imported.map(|name| if defined.contains(name) { name.to_owned() } else { format!("{name} DATA") });
    let additions = library.additions.iter().filter(|name| !defined.contains(*name)).map(|name| (*name).to_owned());
    let lines: Vec<String> = exports.chain(additions).collect();
    format!("LIBRARY {}\nEXPORTS\n{}\n", library.module, lines.join("\n"))
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}
