/*
 * The registers of an edu device, and its state while it has no power (QEMU's docs/specs/edu).
 */
#include "peer.h"

#define EDU_IDENTIFICATION 0x00
#define EDU_LIVENESS 0x04
#define EDU_FACTORIAL 0x08
#define EDU_STATUS 0x20
#define EDU_INTERRUPT_STATUS 0x24
#define EDU_ACKNOWLEDGE 0x64
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_DESTINATION 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98

#define EDU_STATUS_COMPUTING 0x01
#define EDU_STATUS_INTERRUPT 0x80
#define EDU_DMA_RUN 0x1
#define EDU_DMA_TO_MEMORY 0x2
#define EDU_DMA_INTERRUPT 0x4

/* The device's address for its buffer. */
#define EDU_BUFFER 0x40000
/* The low byte of the identification. */
#define EDU_IDENTITY 0xED
/* What a device that is gone reads as. */
#define EDU_GONE 0xFFFFFFFF

/* Between two looks at a device that is waited for without interrupts: 1 ms. */
#define EDU_PAUSE (-10000LL)

static ULONG EduRead(PPEER_EDU Edu, ULONG Offset)
{
    return READ_REGISTER_ULONG((PULONG)(Edu->Registers + Offset));
}

static VOID EduWrite(PPEER_EDU Edu, ULONG Offset, ULONG Value)
{
    WRITE_REGISTER_ULONG((PULONG)(Edu->Registers + Offset), Value);
}

/* WRITE_REGISTER_ULONG64, which the public-domain headers lack. */
static VOID EduWrite64(PPEER_EDU Edu, ULONG Offset, ULONG64 Value)
{
    *(volatile ULONG64 *)(Edu->Registers + Offset) = Value;
    __faststorefence();
}

/* Whether this is an edu device that answers. */
NTSTATUS PeerEduIdentify(PPEER_EDU Edu)
{
    ULONG identity = EduRead(Edu, EDU_IDENTIFICATION);
    ULONG question = 0x5A5A1234;

    if (identity == EDU_GONE || (identity & 0xFF) != EDU_IDENTITY) {
        return STATUS_NO_SUCH_DEVICE;
    }
    EduWrite(Edu, EDU_LIVENESS, question);
    return EduRead(Edu, EDU_LIVENESS) == ~question ? STATUS_SUCCESS : STATUS_DEVICE_HARDWARE_ERROR;
}

/* Acknowledges the interrupts that the device raised; FALSE where it raised none, or is gone. IRQL: any. */
BOOLEAN PeerEduTakeInterrupts(PPEER_EDU Edu)
{
    ULONG raised = EduRead(Edu, EDU_INTERRUPT_STATUS);

    if (raised == 0 || raised == EDU_GONE) {
        return FALSE;
    }
    EduWrite(Edu, EDU_ACKNOWLEDGE, raised);
    return TRUE;
}

/* The device raises no more interrupts, and takes back those that it has raised. What it computes or transfers goes
   on: it cannot be stopped, only waited for. */
VOID PeerEduSilence(PPEER_EDU Edu)
{
    EduWrite(Edu, EDU_STATUS, 0);
    (VOID)PeerEduTakeInterrupts(Edu);
}

VOID PeerEduEnableInterrupts(PPEER_EDU Edu)
{
    EduWrite(Edu, EDU_STATUS, EDU_STATUS_INTERRUPT);
}

BOOLEAN PeerEduIsGone(PPEER_EDU Edu)
{
    return EduRead(Edu, EDU_IDENTIFICATION) == EDU_GONE;
}

static BOOLEAN EduIsComputing(PPEER_EDU Edu)
{
    return (EduRead(Edu, EDU_STATUS) & EDU_STATUS_COMPUTING) != 0;
}

static BOOLEAN EduDmaRuns(PPEER_EDU Edu)
{
    return (EduRead(Edu, EDU_DMA_COMMAND) & EDU_DMA_RUN) != 0;
}

/* A device that is gone is never idle. */
BOOLEAN PeerEduIsIdle(PPEER_EDU Edu)
{
    return !EduIsComputing(Edu) && !EduDmaRuns(Edu);
}

/* Whether the device may still transfer to or from the common buffer. */
BOOLEAN PeerEduIsTransferring(PPEER_EDU Edu)
{
    return EduDmaRuns(Edu) && !PeerEduIsGone(Edu);
}

/* Starts a transfer between the device's buffer and the common buffer. */
static VOID EduTransfer(PPEER_EDU Edu, ULONG Offset, ULONG Length, ULONG Command)
{
    ULONG64 device = EDU_BUFFER + Offset;
    ULONG64 memory = (ULONG64)Edu->CommonAddress.QuadPart;
    BOOLEAN toMemory = (Command & EDU_DMA_TO_MEMORY) != 0;

    EduWrite64(Edu, EDU_DMA_SOURCE, toMemory ? device : memory);
    EduWrite64(Edu, EDU_DMA_DESTINATION, toMemory ? memory : device);
    EduWrite64(Edu, EDU_DMA_COUNT, Length);
    EduWrite(Edu, EDU_DMA_COMMAND, EDU_DMA_RUN | Command);
}

static PVOID EduBufferOf(PIRP Irp)
{
    /* The dispatch routine has mapped it. */
    return MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority | MdlMappingNoExecute);
}

/* Starts a request. IRQL: DISPATCH_LEVEL, under the lock, as the next two. */
VOID PeerEduBegin(PPEER_EDU Edu, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    ULONG offset = stack->Parameters.Read.ByteOffset.LowPart;
    ULONG length = stack->Parameters.Read.Length;

    switch (stack->MajorFunction) {
    case IRP_MJ_READ:
        EduTransfer(Edu, offset, length, EDU_DMA_TO_MEMORY | EDU_DMA_INTERRUPT);
        break;
    case IRP_MJ_WRITE:
        RtlCopyMemory(Edu->CommonBuffer, EduBufferOf(Irp), length);
        EduTransfer(Edu, offset, length, EDU_DMA_INTERRUPT);
        break;
    default:
        EduWrite(Edu, EDU_FACTORIAL, ((PHOTADD_FACTORIAL_INPUT)Irp->AssociatedIrp.SystemBuffer)->Number);
        break;
    }
}

BOOLEAN PeerEduIsDone(PPEER_EDU Edu, PIRP Irp)
{
    if (IoGetCurrentIrpStackLocation(Irp)->MajorFunction == IRP_MJ_DEVICE_CONTROL) {
        return !EduIsComputing(Edu);
    }
    return !EduDmaRuns(Edu);
}

/* Collects the result of a request that is done. */
NTSTATUS PeerEduCollect(PPEER_EDU Edu, PIRP Irp, ULONG Processor, PULONG Length)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    PHOTADD_FACTORIAL_OUTPUT output = Irp->AssociatedIrp.SystemBuffer;
    ULONG factorial;

    if (stack->MajorFunction != IRP_MJ_DEVICE_CONTROL) {
        *Length = stack->Parameters.Read.Length;
        if (stack->MajorFunction == IRP_MJ_READ) {
            RtlCopyMemory(EduBufferOf(Irp), Edu->CommonBuffer, *Length);
        }
        return STATUS_SUCCESS;
    }
    factorial = EduRead(Edu, EDU_FACTORIAL);
    /* No factorial modulo 2^32 has all bits set: the device was pulled out since it said that it was done. */
    if (factorial == EDU_GONE) {
        *Length = 0;
        return STATUS_DELETE_PENDING;
    }
    output->Factorial = factorial;
    output->Processor = Processor;
    *Length = sizeof(*output);
    return STATUS_SUCCESS;
}

/* Waits until the device does nothing, as long as a request may take. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerEduWaitUntilIdle(PPEER_EDU Edu)
{
    LARGE_INTEGER pause = {.QuadPart = EDU_PAUSE};
    ULONG64 deadline = KeQueryInterruptTime() + PeerGlobals.RequestTimeout * 10000ULL;

    while (!PeerEduIsIdle(Edu)) {
        if (KeQueryInterruptTime() > deadline) {
            return STATUS_IO_TIMEOUT;
        }
        KeDelayExecutionThread(KernelMode, FALSE, &pause);
    }
    /* What a request that timed out had left going on has ended. */
    Edu->Transferring = FALSE;
    return STATUS_SUCCESS;
}

/* Copies the device's buffer to the store. */
static NTSTATUS EduSave(PDEVICE_EXTENSION Extension)
{
    PPEER_EDU edu = &Extension->Edu;
    NTSTATUS status = PeerEduWaitUntilIdle(edu);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    EduTransfer(edu, 0, PEER_EDU_REACHABLE, EDU_DMA_TO_MEMORY);
    status = PeerEduWaitUntilIdle(edu);
    if (NT_SUCCESS(status)) {
        RtlCopyMemory(Extension->Store, edu->CommonBuffer, PEER_EDU_REACHABLE);
    }
    return status;
}

/* Copies the store to the device's buffer. */
static NTSTATUS EduRestore(PDEVICE_EXTENSION Extension)
{
    PPEER_EDU edu = &Extension->Edu;
    NTSTATUS status = PeerEduWaitUntilIdle(edu);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    RtlCopyMemory(edu->CommonBuffer, Extension->Store, PEER_EDU_REACHABLE);
    EduTransfer(edu, 0, PEER_EDU_REACHABLE, 0);
    return PeerEduWaitUntilIdle(edu);
}

/* Saves the device's buffer if that is wanted, and silences the device before it loses power. Nothing is at work, and
   nothing happens to a device that was not woken since. IRQL: PASSIVE_LEVEL. */
VOID PeerEduSleep(PDEVICE_EXTENSION Extension, BOOLEAN Save)
{
    PPEER_EDU edu = &Extension->Edu;
    KIRQL irql;

    if (edu->Registers == NULL || !edu->Awake) {
        return;
    }
    if (Save) {
        edu->Saved = NT_SUCCESS(EduSave(Extension));
    } else {
        PeerEduSilence(edu);
        (VOID)PeerEduWaitUntilIdle(edu);
    }
    KeAcquireSpinLock(&edu->Lock, &irql);
    PeerEduSilence(edu);
    edu->Transferring = PeerEduIsTransferring(edu);
    edu->Awake = FALSE;
    KeReleaseSpinLock(&edu->Lock, irql);
}

/* Restores the device's buffer, if it was saved, and lets the device interrupt. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerEduWake(PDEVICE_EXTENSION Extension)
{
    PPEER_EDU edu = &Extension->Edu;
    NTSTATUS status;

    if (edu->Registers == NULL) {
        return STATUS_SUCCESS;
    }
    edu->Awake = TRUE;
    PeerEduSilence(edu);
    if (edu->Saved) {
        status = EduRestore(Extension);
        if (!NT_SUCCESS(status)) {
            return status;
        }
        edu->Saved = FALSE;
    }
    PeerEduEnableInterrupts(edu);
    return STATUS_SUCCESS;
}
