//! A driver image that needs functions which do not exist.
#![no_std]

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn LabNoSuchFunction();
    fn LabNoSuchFunctionEither();
}
#[link(name = "ndis.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn LabSum();
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
pub extern "C" fn DriverEntry() -> i32 {
    unsafe { LabNoSuchFunction() };
    unsafe { LabNoSuchFunctionEither() };
    unsafe { LabSum() };
    0
}
