/*
 * Requests to an edu device, one at a time: an interrupt tells that one is done, and a watchdog that none is.
 */
#include "peer.h"

/* How often the watchdog looks. */
#define PEER_WATCH_MILLISECONDS 250
/* How many address bits the device has. */
#define PEER_EDU_ADDRESS_BITS 28

static KDEFERRED_ROUTINE PeerEduDpcForIsr;
static KDEFERRED_ROUTINE PeerEduWatch;

VOID PeerEduInitialize(PDEVICE_EXTENSION Extension)
{
    PPEER_EDU edu = &Extension->Edu;

    KeInitializeSpinLock(&edu->Lock);
    KeInitializeDpc(&edu->IsrDpc, PeerEduDpcForIsr, Extension);
    KeInitializeDpc(&edu->WatchdogDpc, PeerEduWatch, Extension);
    KeInitializeTimer(&edu->Watchdog);
}

/* Takes the next request, if the device is free. IRQL: DISPATCH_LEVEL, under the lock. */
static VOID PeerEduTakeNext(PDEVICE_EXTENSION Extension)
{
    PPEER_EDU edu = &Extension->Edu;
    PIRP irp;

    if (edu->Registers == NULL || edu->Current != NULL || (edu->Stuck && (!edu->Awake || !PeerEduIsIdle(edu)))) {
        return;
    }
    PeerEngineEnter(Extension);
    irp = PeerTakeRequest(Extension);
    if (irp == NULL) {
        PeerEngineLeave(Extension);
        return;
    }
    edu->Stuck = FALSE;
    edu->Current = irp;
    edu->CurrentSince = KeQueryInterruptTime();
    PeerEduBegin(edu, irp);
}

/* IRQL: <= DISPATCH_LEVEL. */
VOID PeerEduStartNext(PDEVICE_EXTENSION Extension)
{
    KIRQL irql;

    KeAcquireSpinLock(&Extension->Edu.Lock, &irql);
    PeerEduTakeNext(Extension);
    KeReleaseSpinLock(&Extension->Edu.Lock, irql);
}

/* Completes the request that the device is done with, and starts the next. IRQL: DISPATCH_LEVEL. */
static VOID NTAPI PeerEduDpcForIsr(PKDPC Dpc, PVOID DeferredContext, PVOID Argument1, PVOID Argument2)
{
    PDEVICE_EXTENSION extension = DeferredContext;
    PPEER_EDU edu = &extension->Edu;
    ULONG number = KeGetCurrentProcessorNumberEx(NULL);
    PPEER_PROCESSOR processor = PeerProcessor(number);
    NTSTATUS status;
    ULONG length;
    PIRP irp;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    if (processor != NULL) {
        processor->Dpcs++;
    }
    KeAcquireSpinLockAtDpcLevel(&edu->Lock);
    irp = edu->Current;
    /* An interrupt of a request that timed out, say, leaves the one that is worked on alone. */
    if (edu->Registers == NULL || irp == NULL || !PeerEduIsDone(edu, irp)) {
        KeReleaseSpinLockFromDpcLevel(&edu->Lock);
        return;
    }
    status = PeerEduCollect(edu, irp, number, &length);
    edu->Current = NULL;
    PeerEduTakeNext(extension);
    KeReleaseSpinLockFromDpcLevel(&edu->Lock);
    PeerFinish(extension, irp, status, length, number);
    PeerEngineLeave(extension);
}

/* The device has no reset of its own. This takes back what it may still signal; what it computes or transfers goes to
   the common buffer at most. */
static VOID PeerEduReset(PPEER_EDU Edu)
{
    PeerEduSilence(Edu);
    PeerEduEnableInterrupts(Edu);
}

static VOID PeerCountTimeout(PDEVICE_EXTENSION Extension)
{
    KeAcquireSpinLockAtDpcLevel(&Extension->CounterLock);
    Extension->Counters.Timeouts++;
    KeReleaseSpinLockFromDpcLevel(&Extension->CounterLock);
}

/* The request that the device does not answer in time, or NULL. IRQL: DISPATCH_LEVEL, under the lock. */
static PIRP PeerEduTakeLate(PPEER_EDU Edu)
{
    PIRP irp = Edu->Current;

    if (irp == NULL || KeQueryInterruptTime() - Edu->CurrentSince <= PeerGlobals.RequestTimeout * 10000ULL) {
        return NULL;
    }
    Edu->Current = NULL;
    Edu->Stuck = TRUE;
    PeerEduReset(Edu);
    return irp;
}

/* The reset did not free the device, so those that wait would wait for ever. IRQL: DISPATCH_LEVEL. */
static VOID PeerEduFailWaiting(PDEVICE_EXTENSION Extension, ULONG Processor)
{
    PIRP irp;

    PeerEngineEnter(Extension);
    while ((irp = PeerTakeRequest(Extension)) != NULL) {
        PeerFinish(Extension, irp, STATUS_IO_TIMEOUT, 0, Processor);
    }
    PeerEngineLeave(Extension);
}

/* Looks whether the device still answers. IRQL: DISPATCH_LEVEL. */
static VOID NTAPI PeerEduWatch(PKDPC Dpc, PVOID DeferredContext, PVOID Argument1, PVOID Argument2)
{
    PDEVICE_EXTENSION extension = DeferredContext;
    PPEER_EDU edu = &extension->Edu;
    ULONG processor = KeGetCurrentProcessorNumberEx(NULL);
    BOOLEAN wasStuck;
    BOOLEAN isStuck;
    PIRP late;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    KeAcquireSpinLockAtDpcLevel(&edu->Lock);
    late = edu->Registers == NULL ? NULL : PeerEduTakeLate(edu);
    wasStuck = edu->Stuck;
    isStuck = wasStuck && (edu->Registers == NULL || !edu->Awake || !PeerEduIsIdle(edu));
    KeReleaseSpinLockFromDpcLevel(&edu->Lock);
    if (late != NULL) {
        PeerCountTimeout(extension);
        PeerFinish(extension, late, STATUS_IO_TIMEOUT, 0, processor);
        PeerRecordStatus(extension, HOTADD_EVENT_KIND_REQUEST_TIMEOUT, STATUS_SUCCESS);
        PeerRecordStatus(extension, HOTADD_EVENT_KIND_DEVICE_RESET, STATUS_SUCCESS);
    }
    if (isStuck) {
        PeerEduFailWaiting(extension, processor);
    } else if (wasStuck) {
        PeerEduStartNext(extension);
    }
    if (late != NULL) {
        PeerEngineLeave(extension);
    }
}

/* The device is gone: what it works on ends. IRQL: <= DISPATCH_LEVEL. */
VOID PeerEduAbandon(PDEVICE_EXTENSION Extension, NTSTATUS Status)
{
    PPEER_EDU edu = &Extension->Edu;
    KIRQL irql;
    PIRP irp;

    KeAcquireSpinLock(&edu->Lock, &irql);
    irp = edu->Current;
    edu->Current = NULL;
    KeReleaseSpinLock(&edu->Lock, irql);
    if (irp != NULL) {
        PeerFinish(Extension, irp, Status, 0, KeGetCurrentProcessorNumberEx(NULL));
        PeerEngineLeave(Extension);
    }
}

/* One from before a stop is there still where the device might transfer to it. */
static NTSTATUS PeerEduAllocateDma(PDEVICE_EXTENSION Extension)
{
    PPEER_EDU edu = &Extension->Edu;
    DEVICE_DESCRIPTION description = {.Version = DEVICE_DESCRIPTION_VERSION3};
    ULONG mapRegisters;

    if (edu->CommonBuffer != NULL) {
        return STATUS_SUCCESS;
    }
    description.Master = TRUE;
    description.ScatterGather = TRUE;
    description.InterfaceType = PCIBus;
    description.MaximumLength = HOTADD_BUFFER_BYTES;
    description.DmaAddressWidth = PEER_EDU_ADDRESS_BITS;
    edu->DmaAdapter = IoGetDmaAdapter(Extension->PhysicalDevice, (PVOID)&description, &mapRegisters);
    if (edu->DmaAdapter == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    edu->CommonBuffer = edu->DmaAdapter->DmaOperations->AllocateCommonBuffer(edu->DmaAdapter, HOTADD_BUFFER_BYTES,
                                                                            &edu->CommonAddress, TRUE);
    return edu->CommonBuffer != NULL ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

/* A buffer that the device may still transfer to is never freed: losing a page is better than having somebody else's
   overwritten. */
static VOID PeerEduFreeDma(PPEER_EDU Edu)
{
    if (Edu->DmaAdapter == NULL || Edu->Transferring) {
        return;
    }
    if (Edu->CommonBuffer != NULL) {
        Edu->DmaAdapter->DmaOperations->FreeCommonBuffer(Edu->DmaAdapter, HOTADD_BUFFER_BYTES, Edu->CommonAddress,
                                                         Edu->CommonBuffer, TRUE);
    }
    Edu->DmaAdapter->DmaOperations->PutDmaAdapter(Edu->DmaAdapter);
    Edu->CommonBuffer = NULL;
    Edu->DmaAdapter = NULL;
}

static VOID PeerEduSetWatchdog(PPEER_EDU Edu)
{
    LARGE_INTEGER due = {.QuadPart = PEER_WATCH_MILLISECONDS * -10000LL};

    KeSetTimerEx(&Edu->Watchdog, due, PEER_WATCH_MILLISECONDS, &Edu->WatchdogDpc);
}

static NTSTATUS PeerEduBringUp(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated)
{
    PPEER_EDU edu = &Extension->Edu;
    NTSTATUS status = PeerEduIdentify(edu);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    edu->Awake = TRUE;
    PeerEduSilence(edu);
    status = PeerEduAllocateDma(Extension);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    /* Registers survive a reset of the bus: something from before may still be going on. */
    status = PeerEduWaitUntilIdle(edu);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = PeerConnectInterrupt(Extension, Translated);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    PeerEduSetWatchdog(edu);
    return PeerEduWake(Extension);
}

/* Brings the device up from its resources. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerEduStart(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated)
{
    PCM_PARTIAL_RESOURCE_DESCRIPTOR memory = PeerFindResource(Translated, CmResourceTypeMemory);
    PPEER_EDU edu = &Extension->Edu;
    NTSTATUS status;

    if (memory->u.Memory.Length < PEER_EDU_REGISTERS) {
        return STATUS_DEVICE_CONFIGURATION_ERROR;
    }
    edu->Registers = MmMapIoSpaceEx(memory->u.Memory.Start, PEER_EDU_REGISTERS, PAGE_READWRITE | PAGE_NOCACHE);
    if (edu->Registers == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    status = PeerEduBringUp(Extension, Translated);
    if (!NT_SUCCESS(status)) {
        PeerEduStop(Extension, FALSE);
    }
    return status;
}

/* Takes the device down: silent first, then the watchdog and the interrupt, then the registers and the common buffer.
   Nothing is at work. IRQL: PASSIVE_LEVEL. */
VOID PeerEduStop(PDEVICE_EXTENSION Extension, BOOLEAN Save)
{
    PPEER_EDU edu = &Extension->Edu;
    PUCHAR registers = edu->Registers;
    KIRQL irql;

    if (registers == NULL) {
        return;
    }
    if (Save || (edu->Awake && !PeerEduIsGone(edu))) {
        PeerEduSleep(Extension, Save);
    }
    KeCancelTimer(&edu->Watchdog);
    PeerDisconnectInterrupt(Extension);
    KeFlushQueuedDpcs();
    KeAcquireSpinLock(&edu->Lock, &irql);
    edu->Registers = NULL;
    edu->Awake = FALSE;
    KeReleaseSpinLock(&edu->Lock, irql);
    MmUnmapIoSpace(registers, PEER_EDU_REGISTERS);
    PeerEduFreeDma(edu);
}
