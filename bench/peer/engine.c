/*
 * What works on requests: the edu device where there is one, else software, which is a DPC.
 */
#include "peer.h"

/* How many requests one DPC finishes before others get their turn. */
#define PEER_DPC_BATCH 32

static KDEFERRED_ROUTINE PeerSoftwareDpc;

/* Number! modulo 2^32; 34! and all above have the factor 2^32. */
static ULONG PeerFactorialOf(ULONG Number)
{
    ULONG product = 1;

    if (Number >= 34) {
        return 0;
    }
    for (ULONG factor = 2; factor <= Number; factor++) {
        product *= factor;
    }
    return product;
}

/* IRQL: DISPATCH_LEVEL. */
static ULONG PeerSoftwareFactorial(PIRP Irp, ULONG Processor)
{
    PHOTADD_FACTORIAL_INPUT input = Irp->AssociatedIrp.SystemBuffer;
    PHOTADD_FACTORIAL_OUTPUT output = Irp->AssociatedIrp.SystemBuffer;

    output->Factorial = PeerFactorialOf(input->Number);
    output->Processor = Processor;
    return sizeof(*output);
}

/* IRQL: DISPATCH_LEVEL. The dispatch routine has mapped the buffer. */
static ULONG PeerSoftwareTransfer(PDEVICE_EXTENSION Extension, PIRP Irp, PIO_STACK_LOCATION Stack)
{
    PUCHAR store = Extension->Store + Stack->Parameters.Read.ByteOffset.LowPart;
    PVOID buffer = MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority | MdlMappingNoExecute);
    ULONG length = Stack->Parameters.Read.Length;

    KeAcquireSpinLockAtDpcLevel(&Extension->StoreLock);
    if (Stack->MajorFunction == IRP_MJ_READ) {
        RtlCopyMemory(buffer, store, length);
    } else {
        RtlCopyMemory(store, buffer, length);
    }
    KeReleaseSpinLockFromDpcLevel(&Extension->StoreLock);
    return length;
}

/* IRQL: DISPATCH_LEVEL. */
static VOID PeerSoftwareExecute(PDEVICE_EXTENSION Extension, PIRP Irp, ULONG Processor)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    ULONG length;

    if (stack->MajorFunction == IRP_MJ_DEVICE_CONTROL) {
        length = PeerSoftwareFactorial(Irp, Processor);
    } else {
        length = PeerSoftwareTransfer(Extension, Irp, stack);
    }
    PeerFinish(Extension, Irp, STATUS_SUCCESS, length, Processor);
}

/* IRQL: DISPATCH_LEVEL. It may run on several processors at a time. */
static VOID NTAPI PeerSoftwareDpc(PKDPC Dpc, PVOID DeferredContext, PVOID Argument1, PVOID Argument2)
{
    PDEVICE_EXTENSION extension = DeferredContext;
    ULONG number = KeGetCurrentProcessorNumberEx(NULL);
    PPEER_PROCESSOR processor = PeerProcessor(number);
    PIRP irp;

    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    if (processor != NULL) {
        processor->Dpcs++;
    }
    PeerEngineEnter(extension);
    for (ULONG count = 0; count < PEER_DPC_BATCH; count++) {
        irp = PeerTakeRequest(extension);
        if (irp == NULL) {
            PeerEngineLeave(extension);
            return;
        }
        PeerSoftwareExecute(extension, irp, number);
    }
    PeerEngineLeave(extension);
    KeInsertQueueDpc(Dpc, NULL, NULL);
}

VOID PeerInitializeEngine(PDEVICE_EXTENSION Extension)
{
    Extension->Engine = HOTADD_ENGINE_KIND_NONE;
    KeInitializeSpinLock(&Extension->StoreLock);
    KeInitializeDpc(&Extension->SoftwareDpc, PeerSoftwareDpc, Extension);
    PeerEduInitialize(Extension);
}

/* Chooses the engine, and starts it: registers among the resources mean an edu device. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerEngineStart(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated)
{
    NTSTATUS status;

    if (PeerFindResource(Translated, CmResourceTypeMemory) == NULL) {
        Extension->Engine = HOTADD_ENGINE_KIND_SOFTWARE;
        return STATUS_SUCCESS;
    }
    status = PeerEduStart(Extension, Translated);
    if (NT_SUCCESS(status)) {
        Extension->Engine = HOTADD_ENGINE_KIND_EDU;
    }
    return status;
}

/* Nothing is at work any more. Where the device may lose power, its state is saved before. IRQL: PASSIVE_LEVEL. */
VOID PeerEngineStop(PDEVICE_EXTENSION Extension, BOOLEAN Save)
{
    if (Extension->Engine == HOTADD_ENGINE_KIND_EDU) {
        PeerEduStop(Extension, Save);
    }
}

/* The device is about to lose power. IRQL: PASSIVE_LEVEL. */
VOID PeerEngineSleep(PDEVICE_EXTENSION Extension, BOOLEAN Save)
{
    if (Extension->Engine == HOTADD_ENGINE_KIND_EDU) {
        PeerEduSleep(Extension, Save);
    }
}

/* It has power again. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerEngineWake(PDEVICE_EXTENSION Extension)
{
    return Extension->Engine == HOTADD_ENGINE_KIND_EDU ? PeerEduWake(Extension) : STATUS_SUCCESS;
}

/* There may be a request to take. IRQL: <= DISPATCH_LEVEL. */
VOID PeerEngineKick(PDEVICE_EXTENSION Extension)
{
    if (Extension->Engine == HOTADD_ENGINE_KIND_EDU) {
        PeerEduStartNext(Extension);
    } else {
        KeInsertQueueDpc(&Extension->SoftwareDpc, NULL, NULL);
    }
}

/* The device is gone: what it works on ends. IRQL: <= DISPATCH_LEVEL. */
VOID PeerEngineAbandon(PDEVICE_EXTENSION Extension, NTSTATUS Status)
{
    if (Extension->Engine == HOTADD_ENGINE_KIND_EDU) {
        PeerEduAbandon(Extension, Status);
    }
}

/* How many bytes of the device's buffer can be reached. */
ULONG PeerBufferBytes(PDEVICE_EXTENSION Extension)
{
    return Extension->Engine == HOTADD_ENGINE_KIND_EDU ? PEER_EDU_REACHABLE : HOTADD_BUFFER_BYTES;
}
