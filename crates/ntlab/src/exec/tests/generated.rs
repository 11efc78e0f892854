//! Generated code: what it leaves in registers, flags and memory, and which instructions run in which order, does not depend on how it is
//! run.

use std::{cell::RefCell, fmt::Write as _, fs, iter, path::PathBuf, rc::Rc, sync::OnceLock};

use super::guest::{compile, folder};
use crate::{
    choices::Choices,
    config::{Config, Preemption},
    exec::Image,
    kernel::Kernel,
    machine::{Machine, System},
    memory::Ptr,
};

/// Functions that are generated, and basic blocks in each.
const FUNCTIONS: usize = 40;
const BLOCKS: usize = 12;
/// The buffer: registers, flags and vectors at the start, counters of loops, a cell for an address, memory to work on, the results.
const FLAGS: usize = 128;
const VECTORS: usize = 256;
const COUNTERS: usize = 512;
const CELL: usize = 1008;
const MEMORY: usize = 1024;
const RESULTS: usize = 1536;
const BUFFER: usize = 2048;
/// rsp, r15, which holds the buffer, and rcx, which counts, are not among them.
const REGISTERS: [&str; 13] = ["rax", "rbx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14"];
const BYTES: [&str; 5] = ["al", "bl", "dl", "r9b", "r14b"];
const CONDITIONS: [&str; 16] = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"];
const VECTOR_REGISTERS: [&str; 6] = ["xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5"];
const TRAP: u64 = 0x100;

/// Writes assembly text.
struct Generator {
    choices: Choices,
    text: String,
    function: usize,
}

impl Generator {
    fn pick<'t>(&self, from: &[&'t str]) -> &'t str {
        from[self.choices.below(from.len())]
    }

    fn register(&self) -> &'static str {
        self.pick(&REGISTERS)
    }

    fn memory(&self) -> String {
        format!("qword ptr [r15+{}]", MEMORY + self.choices.below(60) * 8)
    }

    fn vector(&self) -> String {
        format!("xmmword ptr [r15+{}]", MEMORY + self.choices.below(60) * 8)
    }

    fn number(&self) -> u64 {
        self.choices.between(0, 0x7FFF_FFFF)
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "    {line}").expect("a string takes all");
    }

    fn instruction(&mut self) {
        let (a, b, m) = (self.register(), self.register(), self.memory());
        let (wide, vector) = (self.vector(), self.pick(&VECTOR_REGISTERS));
        let number = self.number();
        let small = number % 64;
        let binary = self.pick(&["add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test", "mov"]);
        let stored = self.pick(&["add", "adc", "sub", "sbb", "and", "or", "xor", "xadd", "cmpxchg", "xchg", "mov"]);
        let locked = self.pick(&["add", "adc", "sub", "and", "or", "xor", "xadd", "cmpxchg"]);
        let unary = self.pick(&["inc", "dec", "not", "neg"]);
        let shift = self.pick(&["shl", "shr", "sar", "rol", "ror", "rcl", "rcr"]);
        let packed = self.pick(&["paddq", "pxor", "pmuludq", "psubd", "pcmpgtd", "punpcklqdq"]);
        let condition = self.pick(&CONDITIONS);
        let line = match self.choices.below(24) {
            0 | 1 => format!("{binary} {a}, {b}"),
            2 => format!("{binary} {a}, {number}"),
            3 if binary != "test" => format!("{binary} {a}, {m}"),
            3 | 4 => format!("{stored} {m}, {b}"),
            5 => format!("lock {locked} {m}, {b}"),
            6 => format!("{unary} {m}"),
            7 => format!("lock {unary} {m}"),
            8 => format!("{unary} {a}"),
            9 => format!("{shift} {a}, {small}"),
            10 => format!("mov ecx, {small}\n    {shift} {m}, cl\n    {shift} {a}, cl"),
            11 => format!("set{condition} {}\n    set{condition} byte ptr [r15+{}]", self.pick(&BYTES), MEMORY + 7),
            12 => format!("cmov{condition} {a}, {b}\n    cmov{condition} {b}, {m}"),
            13 => format!("lea {a}, [{b}+{a}*4+{small}]\n    imul {a}, {b}"),
            14 => format!("bt {a}, {small}\n    bts {m}, {small}\n    rcl {b}, 1"),
            15 => format!("push {a}\n    push {m}\n    pop {m}\n    pop {b}"),
            16 => format!("movdqu {vector}, {wide}\n    {packed} {vector}, xmm1\n    movdqu {wide}, {vector}"),
            17 => format!("movq {a}, {vector}\n    movq xmm1, {b}"),
            18 => format!("mov {a}, qword ptr [rip+constants+{}]", small / 8 * 8),
            19 => "lahf\n    stc\n    adc rbx, 0\n    sahf".into(),
            20 => format!("or {m}, 1\n    xor edx, edx\n    div {m}"),
            21 => format!(
                "lea rsi, [r15+{MEMORY}]\n    lea rdi, [r15+{}]\n    mov ecx, {}\n    rep movsb\n    mov esi, 5\n    mov edi, 6",
                MEMORY + 200,
                small % 20
            ),
            22 => "std\n    cld\n    cmc".into(),
            _ => format!("movzx {a}, word ptr [r15+{MEMORY}]\n    movsxd {b}, dword ptr [r15+{}]", MEMORY + 36),
        };
        self.line(&line);
    }

    /// The end of basic block `block`: every way from one to another. Ways back are taken a few times only.
    fn branch(&mut self, block: usize) {
        let f = self.function;
        let forward = block + 1 + self.choices.below(3);
        let back = self.choices.below(block + 1);
        let condition = self.pick(&CONDITIONS);
        let line = match self.choices.below(11) {
            0 | 1 => format!("j{condition} b{f}_{forward}"),
            2 => format!("jmp b{f}_{forward}"),
            3 => format!("dec dword ptr [r15+{}]\n    jns b{f}_{back}", COUNTERS + block * 8),
            4 => format!("mov ecx, {}\n    jrcxz 3f\n    jmp 4f\n3:  jmp b{f}_{forward}\n4:", self.choices.below(2)),
            5 => "mov ecx, 5\n2:  add rax, rcx\n    adc rbx, rax\n    loop 2b".into(),
            6 => format!("call g{f}"),
            7 => format!("lea r8, [rip+g{f}]\n    call r8\n    mov r8d, 7"),
            8 => format!(
                "lea r8, [rip+h{f}]\n    mov [r15+{CELL}], r8\n    push rax\n    call [r15+{CELL}]\n    mov [r15+{CELL}], rsi\n    \
                 mov r8d, 7"
            ),
            9 => format!("lea r9, [rip+b{f}_{forward}]\n    jmp r9"),
            _ => format!("jmp qword ptr [rip+table{f}+{}]", (forward - 1) * 8),
        };
        self.line(&line);
    }

    fn generate(&mut self) {
        let f = self.function;
        writeln!(self.text, ".globl f{f}\nf{f}:").expect("a string takes all");
        self.line("push rbx\n    push rbp\n    push rsi\n    push rdi\n    push r12\n    push r13\n    push r14\n    push r15\n    mov r15, rcx");
        for (position, register) in REGISTERS.iter().enumerate() {
            self.line(&format!("mov {register}, [r15+{}]", position * 8));
        }
        for vector in 0..6 {
            self.line(&format!("movdqu xmm{vector}, [r15+{}]", VECTORS + vector * 16));
        }
        self.line(&format!("push qword ptr [r15+{FLAGS}]\n    popfq"));
        for block in 0..BLOCKS {
            writeln!(self.text, "b{f}_{block}:").expect("a string takes all");
            // What was left of an address.
            self.line("mov r9d, 9");
            for _ in 0..self.choices.between(1, 5) {
                self.instruction();
            }
            self.branch(block);
        }
        for block in BLOCKS..BLOCKS + 3 {
            writeln!(self.text, "b{f}_{block}:").expect("a string takes all");
        }
        self.line("mov r9d, 9\n    pushfq\n    pushfq\n    and qword ptr [rsp], -257\n    popfq");
        for (position, register) in REGISTERS.iter().enumerate() {
            self.line(&format!("mov [r15+{}], {register}", RESULTS + position * 8));
        }
        for vector in 0..6 {
            self.line(&format!("movdqu [r15+{}], xmm{vector}", RESULTS + 128 + vector * 16));
        }
        self.line("pop rax\n    and eax, 0xCD5");
        self.line("pop r15\n    pop r14\n    pop r13\n    pop r12\n    pop rdi\n    pop rsi\n    pop rbp\n    pop rbx\n    ret");
        writeln!(self.text, "g{f}:\n    mov r8d, 3").expect("a string takes all");
        self.instruction();
        self.line("ret");
        writeln!(self.text, "h{f}:\n    mov r8d, 3").expect("a string takes all");
        self.instruction();
        self.line("ret 8");
        writeln!(self.text, ".data\ntable{f}:").expect("a string takes all");
        for block in 1..BLOCKS + 3 {
            self.line(&format!(".quad b{f}_{block}"));
        }
        self.text.push_str(".text\n");
    }
}

/// The image: as source text, compiled.
fn image() -> PathBuf {
    let mut generator = Generator { choices: Choices::new(7), text: String::new(), function: 0 };
    for function in 0..FUNCTIONS {
        generator.function = function;
        generator.generate();
    }
    let mut source = "#![no_std]\n#[unsafe(no_mangle)]\npub static _fltused: i32 = 0;\n".to_owned();
    source += "#[panic_handler]\nfn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }\n";
    source += "#[unsafe(no_mangle)]\npub extern \"C\" fn DriverEntry() -> i32 { 0 }\n";
    for f in 0..FUNCTIONS {
        writeln!(
            source,
            "unsafe extern \"C\" {{ fn f{f}(); }}\n#[unsafe(no_mangle)]\n#[unsafe(naked)]\npub extern \"C\" fn run{f}() {{ \
             core::arch::naked_asm!(\"jmp {{}}\", sym f{f}) }}"
        )
        .expect("a string takes all");
    }
    let constants = ".text\n.balign 8\nconstants: .quad 1, 2, 3, -4, 5, 6, 7, 8\n";
    writeln!(source, "core::arch::global_asm!(r#\"\n{constants}{}\"#);", generator.text).expect("a string takes all");
    let folder = folder();
    let path = folder.join("generated.rs");
    fs::write(&path, source).expect("the target directory is writable");
    compile(&path, &folder.join("generated.sys"))
}

thread_local! {
    /// Where the trap flag has trapped.
    static TRAPS: RefCell<Option<Vec<u64>>> = const { RefCell::new(None) };
}

/// Notes a trap of the trap flag, if they are looked for.
pub fn note_trap(rip: u64) -> bool {
    TRAPS.with_borrow_mut(|traps| traps.as_mut().map(|traps| traps.push(rip)).is_some())
}

/// What a function has left, the offsets of the instructions that ran, if they were looked at, and how many there were, if they
/// were counted.
struct Ran {
    left: (u64, Vec<u8>),
    places: Vec<u64>,
    count: Option<u64>,
}

fn run_each(config: &Config, how: impl Fn(&Kernel, &Rc<Image>, &str, Ptr<u8>) -> Ran) -> Vec<Ran> {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let path = IMAGE.get_or_init(image);
    let outcome = Machine::new(config.clone()).expect("valid").run(|system: &System| {
        let k = &system.kernel;
        let image = k.exec.load(path).expect("the image loads");
        let each = (0..FUNCTIONS).map(|function| {
            let buffer = k.memory.allocate_io_buffer(BUFFER);
            buffer.write_bytes(&content(function as u64));
            how(k, &image, &format!("run{function}"), buffer)
        });
        each.collect()
    });
    outcome.result.unwrap_or_else(|report| panic!("{report}"))
}

/// A buffer with registers, flags and memory to begin with.
fn content(seed: u64) -> Vec<u8> {
    let choices = Choices::new(seed);
    let mut content: Vec<u8> = (0..BUFFER).map(|_| choices.between(0, 255).to_le_bytes()[0]).collect();
    let flags = choices.between(0, 0xFFF) & 0x8D5 | 0x202;
    content[FLAGS..FLAGS + 8].copy_from_slice(&flags.to_le_bytes());
    for counter in content[COUNTERS..CELL].chunks_exact_mut(8) {
        counter.copy_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
    }
    content
}

fn call(k: &Kernel, image: &Image, name: &str, buffer: Ptr<u8>) -> (u64, Vec<u8>) {
    let flags = k.call("generated", image.exports[name], &[buffer.address()]);
    (flags, buffer.read_bytes(BUFFER))
}

fn plainly(k: &Kernel, image: &Rc<Image>, name: &str, buffer: Ptr<u8>) -> Ran {
    let before = k.exec.instructions(k);
    let left = call(k, image, name, buffer);
    let count = k.exec.instructions(k).zip(before).map(|(after, before)| after - before);
    Ran { left, places: Vec::new(), count }
}

/// With a look at each instruction.
fn observed(k: &Kernel, image: &Rc<Image>, name: &str, buffer: Ptr<u8>) -> Ran {
    let places = Rc::new(RefCell::new(Vec::new()));
    let (seen, base) = (Rc::clone(&places), image.base);
    assert!(k.exec.observe(k, Some(Rc::new(move |_, step| seen.borrow_mut().push(step.rip() - base)))));
    let ran = plainly(k, image, name, buffer);
    k.exec.observe(k, None);
    Ran { places: places.take(), ..ran }
}

/// With the trap flag set.
fn trapped(k: &Kernel, image: &Rc<Image>, name: &str, buffer: Ptr<u8>) -> Ran {
    let flags: Ptr<u64> = Ptr::new(buffer.address() + FLAGS as u64);
    flags.write(flags.read() | TRAP);
    TRAPS.set(Some(Vec::new()));
    let mut left = call(k, image, name, buffer);
    let mut places: Vec<u64> = TRAPS.take().unwrap_or_default().iter().map(|rip| rip - image.base).collect();
    left.1[FLAGS..FLAGS + 8].copy_from_slice(&(flags.read() & !TRAP).to_le_bytes());
    // A repeated instruction traps after each repetition.
    places.dedup();
    Ran { left, places, count: None }
}

fn stepped(preemption: Preemption) -> Config {
    Config { preemption, count_instructions: true, ..Config::default() }
}

#[test]
fn generated_code_leaves_the_same_however_it_is_run() {
    let native = run_each(&Config::default(), plainly);
    let all =
        iter::once(Preemption::KernelCalls).chain([1, 2, 3, 10, 100].map(|one_in| Preemption::Instructions { one_in }));
    let mut counts: Option<Vec<Option<u64>>> = None;
    for preemption in all {
        let runs = run_each(&stepped(preemption), plainly);
        for (function, (native, stepped)) in native.iter().zip(&runs).enumerate() {
            assert!(native.left == stepped.left, "function {function}, {preemption:?}");
        }
        let now = runs.iter().map(|ran| ran.count).collect();
        assert_eq!(counts.get_or_insert_with(|| Clone::clone(&now)), &now, "{preemption:?}");
    }
}

#[test]
fn the_same_instructions_run_in_the_same_order_as_with_the_trap_flag() {
    let native = run_each(&Config::default(), trapped);
    let mut steps = 0;
    for preemption in [Preemption::KernelCalls, Preemption::Instructions { one_in: 2 }] {
        let runs = run_each(&stepped(preemption), observed);
        for (function, (native, stepped)) in native.iter().zip(&runs).enumerate() {
            assert!(native.left == stepped.left, "function {function}, {preemption:?}");
            assert_eq!(stepped.count, Some(stepped.places.len() as u64), "function {function}");
            // The first trap comes behind the instruction after the one that sets the flag, the last behind the one that clears it.
            let start = stepped.places.iter().position(|place| *place == native.places[0]).expect("it ran");
            assert_eq!(native.places[..], stepped.places[start..start + native.places.len()], "function {function}");
            assert_eq!(PROLOGUE + native.places.len() + EPILOGUE, stepped.places.len(), "function {function}");
            steps += native.places.len();
        }
    }
    assert!(steps > 10_000, "{steps}");
}

/// Instructions before the first trap and after the last: a jump, eight pushes, loads, the setting of flags, and one; stores, pops, a return.
const PROLOGUE: usize = 1 + 8 + 1 + 13 + 6 + 2 + 1;
const EPILOGUE: usize = 13 + 6 + 2 + 8 + 1 - 1;
