//! The image of tests/guest/guest.rs in a machine, and the kernel functions it calls.

use std::{
    any::Any,
    env,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::OnceLock,
};

use crate::{
    config::{Config, Preemption, SpecialPool},
    exec::{self, Entered, Exec, Image},
    export,
    exports::Export,
    finding::Finding,
    irql::{DISPATCH_LEVEL, any_level},
    kernel::Kernel,
    memory::{GuardMethod, Memory, Space},
};

/// Kernel functions that only the guest knows.
pub const FUNCTIONS: &[Export] = &[
    export!("LabSum", any_level(), sum),
    export!("LabInvoke", any_level(), invoke),
    export!("LabClobber", any_level(), clobber),
    export!("LabPanic", any_level(), stop),
    export!("LabForbidPaging", any_level(), forbid_paging),
];

fn sum(_: &Kernel, a: u64, b: u64, _c: u64, _d: u64, e: u64, f: u64) -> u64 {
    a + b + e + f
}

fn invoke(k: &Kernel, function: u64, a: u64, b: u64) -> u64 {
    exec::call(k, "guest", function, &[a, b])
}

/// Changes every register that System V functions may change.
fn clobber(_: &Kernel) -> u64 {
    // SAFETY: every register that is written is declared.
    unsafe {
        std::arch::asm!(
            "pcmpeqd xmm6, xmm6", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm8, xmm8", "pcmpeqd xmm9, xmm9", "pcmpeqd xmm10, xmm10",
            "pcmpeqd xmm11, xmm11", "pcmpeqd xmm12, xmm12", "pcmpeqd xmm13, xmm13", "pcmpeqd xmm14, xmm14", "pcmpeqd xmm15, xmm15",
            "mov rdi, -1", "mov rsi, -1",
            out("rdi") _, out("rsi") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
            out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    0
}

/// As a kernel function that raises the IRQL does.
fn forbid_paging(k: &Kernel) {
    k.memory.space.set_irql(DISPATCH_LEVEL);
}

fn stop(_: &Kernel) -> u64 {
    panic!("a kernel function panics")
}

/// A driver image made of one source file in tests/guest.
pub fn build(name: &str) -> PathBuf {
    let source = Path::new("tests/guest").join(name).with_extension("rs");
    compile(&source, &folder().join(name).with_extension("sys"))
}

/// Where the tests put images.
pub fn folder() -> PathBuf {
    let folder = env::current_exe().expect("a test knows its file").with_extension("guest");
    std::fs::create_dir_all(&folder).expect("the target directory is writable");
    folder
}

/// A driver image made of one source file.
pub fn compile(source: &Path, image: &Path) -> PathBuf {
    let output = Command::new("rustc")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "--target=x86_64-pc-windows-msvc",
            "-Cpanic=abort",
            "-Copt-level=3",
        ])
        .args([
            "-Cdebuginfo=line-tables-only",
            "-Clinker=rust-lld",
            "-Clink-arg=/NODEFAULTLIB",
            "-Clink-arg=/SUBSYSTEM:NATIVE",
        ])
        .args([
            "-Clink-arg=/DRIVER",
            "-Clink-arg=/ENTRY:DriverEntry",
            "-Clink-arg=/DYNAMICBASE",
            "-Clink-arg=/SECTION:INIT,ERD",
        ])
        .arg("-o")
        .arg(image)
        .arg(source)
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image.to_owned()
}

/// A machine with the guest loaded.
pub struct Guest {
    method: Option<GuardMethod>,
}

impl Guest {
    /// A machine.
    pub const fn new() -> Self {
        Self { method: None }
    }

    /// A machine whose pages are guarded so, whatever the host prefers.
    pub const fn guarded_by(method: GuardMethod) -> Self {
        Self { method: Some(method) }
    }

    /// Runs `test` as a thread of the machine, and again with driver code stepped, and in a machine after others: what holds of it holds then
    /// too.
    pub fn run<T>(&self, test: impl Fn(&Running<'_>) -> T) -> T {
        let every = Preemption::Instructions { one_in: 1 };
        let some = Preemption::Instructions { one_in: 7 };
        self.run_as(Config::default(), &test);
        self.run_as(Config { count_instructions: true, ..Config::default() }, &test);
        self.run_as(Config { preemption: every, ..Config::default() }, &test);
        self.run_as(Config { preemption: some, ..Config::default() }, &test);
        self.run_as(Config::default(), &test)
    }

    /// Runs `test` as a thread of a machine made as `config` says.
    pub fn run_as<T>(&self, config: Config, test: impl FnOnce(&Running<'_>) -> T) -> T {
        static IMAGE: OnceLock<PathBuf> = OnceLock::new();
        println!("preemption: {:?}, counted: {}", config.preemption, config.count_instructions);
        let mut kernel = Kernel::new(Config { special_pool: SpecialPool::VerifyEnd, ..config });
        if let Some(method) = self.method {
            let space = Space::guarded_by(method).expect("the host has address space");
            kernel.memory = Memory::of(space, kernel.config.memory);
            kernel.exec = Exec::new(&kernel.memory.space, &kernel.config);
        }
        let k = &kernel;
        let entered = exec::enter(k).expect("signals can be handled");
        let image = k.exec.load(IMAGE.get_or_init(|| build("guest"))).expect("the image loads");
        let stack = k.exec.stacks.kernel_stack();
        k.exec.restore(stack.context());
        let running = Running { k, image, _entered: entered };
        let result = test(&running);
        if self.method.is_none() {
            k.memory.space.keep();
            k.exec.keep_code();
        }
        result
    }
}

/// A thread that can call the guest.
pub struct Running<'k> {
    /// The machine.
    pub k: &'k Kernel,
    /// The guest.
    pub image: Rc<Image>,
    _entered: Entered<'k>,
}

impl Running<'_> {
    /// The address of one of the guest's functions.
    pub fn function(&self, name: &str) -> u64 {
        *self.image.exports.get(name).unwrap_or_else(|| panic!("the guest has no {name}"))
    }

    /// Calls one of the guest's functions.
    pub fn call(&self, name: &str, a: u64, b: u64) -> u64 {
        self.call_with(name, &[a, b])
    }

    /// Calls one of the guest's functions with any number of arguments.
    pub fn call_with(&self, name: &str, arguments: &[u64]) -> u64 {
        exec::call(self.k, "guest", self.function(name), arguments)
    }

    /// What something finds.
    #[allow(clippy::unused_self, reason = "it happens in the machine")]
    pub fn unwinds_in(&self, act: impl FnOnce()) -> Finding {
        let payload = panic::catch_unwind(AssertUnwindSafe(act)).expect_err("it does not return");
        *payload.downcast::<Finding>().expect("it is a finding")
    }

    /// What a call unwinds with.
    pub fn unwinds(&self, name: &str, a: u64, b: u64) -> Box<dyn Any + Send> {
        let result = panic::catch_unwind(AssertUnwindSafe(|| self.call(name, a, b)));
        result.expect_err("the call does not return")
    }

    /// What a call finds.
    pub fn finding(&self, name: &str, a: u64, b: u64) -> Finding {
        *self.unwinds(name, a, b).downcast::<Finding>().expect("it is a finding")
    }
}
