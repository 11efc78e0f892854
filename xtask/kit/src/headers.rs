//! Finds what the distribution brings: headers and import libraries of mingw-w64, and libclang.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian's `mingw-w64-x86-64-dev` puts its headers (`include`) and import libraries (`lib`).
const MINGW: &str = "/usr/x86_64-w64-mingw32";

/// Where Debian keeps each version of LLVM, in a directory `llvm-VERSION`.
const LLVM: &str = "/usr/lib";

/// The mingw-w64 headers and import libraries.
pub struct Mingw {
    /// The user-mode headers, on which the kernel's are built.
    pub include: PathBuf,
    /// The kernel headers.
    pub ddk: PathBuf,
    /// The import libraries.
    pub lib: PathBuf,
}

impl Mingw {
    /// The installed one, if it is complete.
    pub fn find() -> Option<Self> {
        let root = Path::new(MINGW);
        let found = Self { include: root.join("include"), ddk: root.join("include/ddk"), lib: root.join("lib") };
        (found.ddk.join("ntifs.h").exists() && found.import_library("ntoskrnl").exists()).then_some(found)
    }

    /// The import library of the module `name`.
    pub fn import_library(&self, name: &str) -> PathBuf {
        self.lib.join(format!("lib{name}.a"))
    }
}

/// What bindgen needs of clang.
pub struct Clang {
    /// The directory with `libclang.so.1`.
    pub lib: PathBuf,
    /// The directory with the compiler's own headers, `stddef.h` and the like.
    pub include: PathBuf,
}

impl Clang {
    /// The newest installed version that is complete.
    pub fn find() -> Option<Self> {
        directories(Path::new(LLVM), "llvm-").into_iter().rev().find_map(|(_, llvm)| {
            let lib = llvm.join("lib");
            let include = own_headers(&llvm)?;
            lib.join("libclang.so.1").exists().then_some(Self { lib, include })
        })
    }
}

/// What drivers in C are compiled with.
pub struct Compiler {
    /// clang.
    pub program: PathBuf,
    /// The directory with its own headers.
    pub include: PathBuf,
}

impl Compiler {
    /// The newest installed version that is complete.
    pub fn find() -> Option<Self> {
        directories(Path::new(LLVM), "llvm-").into_iter().rev().find_map(|(_, llvm)| {
            let program = llvm.join("bin/clang");
            program.exists().then_some(Self { program, include: own_headers(&llvm)? })
        })
    }
}

/// The directory of the compiler's own headers in that of a version of LLVM.
fn own_headers(llvm: &Path) -> Option<PathBuf> {
    let (_, resources) = directories(&llvm.join("lib/clang"), "").pop()?;
    let include = resources.join("include");
    include.join("stddef.h").exists().then_some(include)
}

/// The directories in `parent` named `prefix` and a version, oldest first.
fn directories(parent: &Path, prefix: &str) -> Vec<(Vec<u32>, PathBuf)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version =
                name.strip_prefix(prefix)?.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
            Some((version, entry.path()))
        })
        .collect();
    found.sort();
    found
}
