/* A driver without PnP that uses what drivers of its time do: StartIo, device queues, timers, every kind of lock, lookaside lists,
 * memory descriptor lists, threads. Built as a checked driver, whose remove locks are larger. */
#define DBG 1
#include "common.h"

#define DEVICE_NAME L"\\Device\\Legacy"
#define LINK_NAME L"\\DosDevices\\Legacy"
#define TAG 'ycgL'
#define MILLISECOND 10000LL

enum {
  LOCKS,           /* the line of the first check that fails, or 0 */
  LISTS,
  THREADS,
  MEMORY,
  COUNTS,          /* how many writes StartIo has served, and the order of their first bytes */
  RECURSIVE_MUTEX, /* a fast mutex acquired twice */
  RESOURCE_APCS,   /* an ERESOURCE outside a critical region */
  RESOURCE_FREED,  /* an ERESOURCE in pool that is freed */
  LOCK_PAGES       /* METHOD_NEITHER: locks and maps the output buffer and fills it */
};

typedef struct {
  KTIMER timer;
  KDPC dpc;
  IO_REMOVE_LOCK remove_lock;
  ERESOURCE resource;
  FAST_MUTEX mutex;
  KGUARDED_MUTEX guarded;
  KMUTEX kernel_mutex;
  KSEMAPHORE semaphore;
  ULONG served;
  UCHAR order[24];
} EXTENSION;

#define CHECK(condition) \
  if (!(condition)) return __LINE__

static ULONG CheckResource(EXTENSION *own) {
  KeEnterCriticalRegion();
  CHECK(ExAcquireResourceSharedLite(&own->resource, TRUE));
  CHECK(ExAcquireResourceSharedLite(&own->resource, FALSE));
  CHECK(ExIsResourceAcquiredSharedLite(&own->resource) == 2);
  CHECK(!ExIsResourceAcquiredExclusiveLite(&own->resource));
  CHECK(!ExAcquireResourceExclusiveLite(&own->resource, FALSE));
  ExReleaseResourceLite(&own->resource);
  ExReleaseResourceLite(&own->resource);
  CHECK(ExAcquireResourceExclusiveLite(&own->resource, TRUE));
  CHECK(ExIsResourceAcquiredExclusiveLite(&own->resource));
  CHECK(ExAcquireResourceSharedLite(&own->resource, FALSE));
  ExReleaseResourceLite(&own->resource);
  ExReleaseResourceLite(&own->resource);
  CHECK(ExIsResourceAcquiredSharedLite(&own->resource) == 0);
  KeLeaveCriticalRegion();
  return 0;
}

static ULONG CheckLocks(EXTENSION *own) {
  ULONG line = CheckResource(own);
  if (line) return line;
  LARGE_INTEGER none = {.QuadPart = 0};
  ExAcquireFastMutex(&own->mutex);
  CHECK(KeGetCurrentIrql() == APC_LEVEL);
  ExReleaseFastMutex(&own->mutex);
  CHECK(KeGetCurrentIrql() == PASSIVE_LEVEL);
  CHECK(ExTryToAcquireFastMutex(&own->mutex));
  ExReleaseFastMutex(&own->mutex);
  KeAcquireGuardedMutex(&own->guarded);
  KeReleaseGuardedMutex(&own->guarded);
  CHECK(KeWaitForSingleObject(&own->kernel_mutex, Executive, KernelMode, FALSE, NULL) == STATUS_SUCCESS);
  CHECK(KeReadStateMutex(&own->kernel_mutex) == 0);
  KeReleaseMutex(&own->kernel_mutex, FALSE);
  CHECK(KeReleaseSemaphore(&own->semaphore, IO_NO_INCREMENT, 1, FALSE) == 0);
  CHECK(KeWaitForSingleObject(&own->semaphore, Executive, KernelMode, FALSE, &none) == STATUS_SUCCESS);
  CHECK(KeWaitForSingleObject(&own->semaphore, Executive, KernelMode, FALSE, &none) == STATUS_TIMEOUT);
  CHECK(NT_SUCCESS(IoAcquireRemoveLock(&own->remove_lock, own)));
  IoReleaseRemoveLock(&own->remove_lock, own);
  return 0;
}

static ULONG CheckLists(void) {
  NPAGED_LOOKASIDE_LIST nonpaged;
  PAGED_LOOKASIDE_LIST paged;
  ExInitializeNPagedLookasideList(&nonpaged, NULL, NULL, 0, 48, TAG, 0);
  ExInitializePagedLookasideList(&paged, NULL, NULL, 0, 100, TAG, 0);
  PVOID first = ExAllocateFromNPagedLookasideList(&nonpaged);
  PVOID second = ExAllocateFromPagedLookasideList(&paged);
  CHECK(first && second && first != second);
  RtlFillMemory(first, 48, 1);
  RtlFillMemory(second, 100, 2);
  ExFreeToNPagedLookasideList(&nonpaged, first);
  ExFreeToPagedLookasideList(&paged, second);
  ExDeleteNPagedLookasideList(&nonpaged);
  ExDeletePagedLookasideList(&paged);

  DECLSPEC_ALIGN(16) SLIST_HEADER head;
  DECLSPEC_ALIGN(16) SLIST_ENTRY entries[2];
  InitializeSListHead(&head);
  CHECK(InterlockedPushEntrySList(&head, &entries[0]) == NULL);
  CHECK(InterlockedPushEntrySList(&head, &entries[1]) == &entries[0]);
  CHECK(ExQueryDepthSList(&head) == 2);
  CHECK(InterlockedPopEntrySList(&head) == &entries[1]);
  CHECK(InterlockedPopEntrySList(&head) == &entries[0]);
  CHECK(InterlockedPopEntrySList(&head) == NULL && ExQueryDepthSList(&head) == 0);

  KDEVICE_QUEUE queue;
  KDEVICE_QUEUE_ENTRY entry[4];
  KIRQL irql;
  KeInitializeDeviceQueue(&queue);
  KeRaiseIrql(DISPATCH_LEVEL, &irql);
  BOOLEAN idle = !KeInsertDeviceQueue(&queue, &entry[0]);
  BOOLEAN queued = KeInsertByKeyDeviceQueue(&queue, &entry[1], 5) && KeInsertByKeyDeviceQueue(&queue, &entry[2], 3) &&
                   KeInsertByKeyDeviceQueue(&queue, &entry[3], 5);
  BOOLEAN by_key = KeRemoveByKeyDeviceQueue(&queue, 4) == &entry[1] && KeRemoveEntryDeviceQueue(&queue, &entry[3]) &&
                   KeRemoveDeviceQueue(&queue) == &entry[2] && KeRemoveDeviceQueue(&queue) == NULL;
  KeLowerIrql(irql);
  CHECK(idle && queued && by_key && !queue.Busy);
  return 0;
}

typedef struct {
  EXTENSION *own;
  KEVENT ready, go;
  LONG seen;
} THREAD_START;

static void NTAPI Thread(PVOID context) {
  THREAD_START *start = context;
  KeSetPriorityThread(KeGetCurrentThread(), LOW_REALTIME_PRIORITY);
  KeSetEvent(&start->ready, IO_NO_INCREMENT, FALSE);
  KeWaitForSingleObject(&start->go, Executive, KernelMode, FALSE, NULL);
  LONG priority = KeQueryPriorityThread(KeGetCurrentThread());
  ExAcquireFastMutex(&start->own->mutex);
  start->seen = priority;
  ExReleaseFastMutex(&start->own->mutex);
  PsTerminateSystemThread(STATUS_SUCCESS);
}

static ULONG CheckThreads(EXTENSION *own) {
  THREAD_START start = {.own = own};
  OBJECT_ATTRIBUTES attributes;
  HANDLE handle;
  PVOID thread, none;
  KeInitializeEvent(&start.ready, NotificationEvent, FALSE);
  KeInitializeEvent(&start.go, SynchronizationEvent, FALSE);
  InitializeObjectAttributes(&attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
  CHECK(NT_SUCCESS(PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, &attributes, NULL, NULL, Thread, &start)));
  CHECK(ObReferenceObjectByHandle(handle, SYNCHRONIZE, *ExEventObjectType, KernelMode, &none, NULL) ==
        STATUS_OBJECT_TYPE_MISMATCH);
  CHECK(NT_SUCCESS(ObReferenceObjectByHandle(handle, SYNCHRONIZE, *PsThreadType, KernelMode, &thread, NULL)));
  ZwClose(handle);
  KeWaitForSingleObject(&start.ready, Executive, KernelMode, FALSE, NULL);
  ExAcquireFastMutex(&own->mutex);
  KeSetEvent(&start.go, IO_NO_INCREMENT, FALSE);
  LARGE_INTEGER delay = {.QuadPart = -MILLISECOND};
  KeDelayExecutionThread(KernelMode, FALSE, &delay);
  LONG early = start.seen;
  ExReleaseFastMutex(&own->mutex);
  KeWaitForSingleObject(thread, Executive, KernelMode, FALSE, NULL);
  ObDereferenceObject(thread);
  CHECK(early == 0 && start.seen == LOW_REALTIME_PRIORITY);
  return 0;
}

static ULONG CheckMemory(void) {
  UNICODE_STRING name = RTL_CONSTANT_STRING(L"KeSetEvent");
  CHECK(MmGetSystemRoutineAddress(&name) != NULL);
  CHECK((ULONG64)MmHighestUserAddress < (ULONG64)MmSystemRangeStart);
  PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 6000, TAG);
  CHECK(block);
  CHECK(block > (PUCHAR)MmSystemRangeStart);
  RtlFillMemory(block, 6000, 3);
  PMDL mdl = IoAllocateMdl(block + 8, 5000, FALSE, FALSE, NULL);
  CHECK(mdl && MmGetMdlByteCount(mdl) == 5000 && MmGetMdlByteOffset(mdl) == BYTE_OFFSET(block + 8));
  __try {
    MmProbeAndLockPages(mdl, KernelMode, IoModifyAccess);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    return __LINE__;
  }
  PUCHAR mapped = MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority);
  CHECK(mapped && mapped[0] == 3);
  mapped[4999] = 4;
  CHECK(block[5007] == 4);
  MmUnlockPages(mdl);
  IoFreeMdl(mdl);
  ExFreePoolWithTag(block, TAG);
  return 0;
}

static NTSTATUS LockPages(PIRP irp, ULONG length) {
  PMDL mdl = IoAllocateMdl(irp->UserBuffer, length, FALSE, FALSE, NULL);
  if (!mdl) return Complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
  __try {
    MmProbeAndLockPages(mdl, UserMode, IoWriteAccess);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    IoFreeMdl(mdl);
    return Complete(irp, GetExceptionCode(), 0);
  }
  RtlFillMemory(MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority), length, 0x5A);
  MmUnlockPages(mdl);
  IoFreeMdl(mdl);
  return Complete(irp, STATUS_SUCCESS, length);
}

static void RecursiveMutex(EXTENSION *own) {
  ExAcquireFastMutex(&own->mutex);
  ExAcquireFastMutex(&own->mutex);
}

static void FreeResource(void) {
  PERESOURCE resource = ExAllocatePoolWithTag(NonPagedPool, sizeof *resource, TAG);
  if (!resource) return;
  ExInitializeResourceLite(resource);
  ExFreePoolWithTag(resource, TAG);
}

static void NTAPI CancelQueued(PDEVICE_OBJECT device, PIRP irp) {
  KIRQL irql = irp->CancelIrql;
  if (device->CurrentIrp == irp) {
    /* StartIo has it: that one finds it cancelled. */
    IoReleaseCancelSpinLock(irql);
    return;
  }
  KeRemoveEntryDeviceQueue(&device->DeviceQueue, &irp->Tail.Overlay.DeviceQueueEntry);
  IoReleaseCancelSpinLock(irql);
  Complete(irp, STATUS_CANCELLED, 0);
}

/* The device is a timer: each write takes a millisecond. */
static void NTAPI StartIo(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  KIRQL irql;
  IoAcquireCancelSpinLock(&irql);
  BOOLEAN cancelled = irp->Cancel;
  IoSetCancelRoutine(irp, NULL);
  IoReleaseCancelSpinLock(irql);
  if (cancelled) {
    Complete(irp, STATUS_CANCELLED, 0);
    IoStartNextPacket(device, TRUE);
    return;
  }
  LARGE_INTEGER due = {.QuadPart = -MILLISECOND};
  KeSetTimer(&own->timer, due, &own->dpc);
}

static void NTAPI TimerDpc(PKDPC dpc, PVOID context, PVOID argument1, PVOID argument2) {
  UNREFERENCED_PARAMETER(dpc);
  UNREFERENCED_PARAMETER(argument1);
  UNREFERENCED_PARAMETER(argument2);
  PDEVICE_OBJECT device = context;
  EXTENSION *own = device->DeviceExtension;
  PIRP irp = device->CurrentIrp;
  PUCHAR data = irp->AssociatedIrp.SystemBuffer;
  if (own->served < sizeof own->order) own->order[own->served] = data[0];
  own->served++;
  ULONG length = IoGetCurrentIrpStackLocation(irp)->Parameters.Write.Length;
  IoStartNextPacket(device, TRUE);
  Complete(irp, STATUS_SUCCESS, length);
}

static NTSTATUS NTAPI DispatchWrite(PDEVICE_OBJECT device, PIRP irp) {
  if (IoGetCurrentIrpStackLocation(irp)->Parameters.Write.Length == 0) return Complete(irp, STATUS_SUCCESS, 0);
  IoMarkIrpPending(irp);
  IoStartPacket(device, irp, NULL, CancelQueued);
  return STATUS_PENDING;
}

static NTSTATUS NTAPI DispatchControl(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  ULONG code = location->Parameters.DeviceIoControl.IoControlCode;
  ULONG length = location->Parameters.DeviceIoControl.OutputBufferLength;
  if (code == TEST_IOCTL(LOCK_PAGES, METHOD_NEITHER)) return LockPages(irp, length);
  if (length < 32) return Complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
  ULONG line = 0;
  ULONG *out = irp->AssociatedIrp.SystemBuffer;
  RtlZeroMemory(out, 32);
  switch ((code >> 2 & 0xFFF) - 0x800) {
    case LOCKS: line = CheckLocks(own); break;
    case LISTS: line = CheckLists(); break;
    case THREADS: line = CheckThreads(own); break;
    case MEMORY: line = CheckMemory(); break;
    case COUNTS:
      line = own->served;
      RtlCopyMemory(out + 1, own->order, sizeof own->order);
      break;
    case RECURSIVE_MUTEX: RecursiveMutex(own); break;
    case RESOURCE_APCS: ExAcquireResourceExclusiveLite(&own->resource, TRUE); break;
    case RESOURCE_FREED: FreeResource(); break;
    default: return Complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  }
  out[0] = line;
  return Complete(irp, STATUS_SUCCESS, 32);
}

static NTSTATUS NTAPI DispatchOpenClose(PDEVICE_OBJECT device, PIRP irp) {
  UNREFERENCED_PARAMETER(device);
  return Complete(irp, STATUS_SUCCESS, 0);
}

static void NTAPI Unload(PDRIVER_OBJECT driver) {
  EXTENSION *own = driver->DeviceObject->DeviceExtension;
  IoWMIRegistrationControl(driver->DeviceObject, WMIREG_ACTION_DEREGISTER);
  ExDeleteResourceLite(&own->resource);
  DeleteNamedDevice(driver->DeviceObject, LINK_NAME);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  PDEVICE_OBJECT device;
  NTSTATUS status = CreateNamedDevice(driver, sizeof(EXTENSION), DEVICE_NAME, LINK_NAME, &device);
  if (!NT_SUCCESS(status)) return status;
  DbgPrint("legacy: %wZ, %d bytes, %s\n", path, (int)sizeof(EXTENSION), "checked");
  device->Flags |= DO_BUFFERED_IO;
  EXTENSION *own = device->DeviceExtension;
  KeInitializeTimer(&own->timer);
  KeInitializeDpc(&own->dpc, TimerDpc, device);
  IoInitializeRemoveLock(&own->remove_lock, TAG, 0, 0);
  ExInitializeResourceLite(&own->resource);
  ExInitializeFastMutex(&own->mutex);
  KeInitializeGuardedMutex(&own->guarded);
  KeInitializeMutex(&own->kernel_mutex, 0);
  KeInitializeSemaphore(&own->semaphore, 0, 2);
  driver->DriverUnload = Unload;
  driver->DriverStartIo = StartIo;
  driver->MajorFunction[IRP_MJ_CREATE] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_CLOSE] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_CLEANUP] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_WRITE] = DispatchWrite;
  driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = DispatchControl;
  return IoWMIRegistrationControl(device, WMIREG_ACTION_REGISTER);
}
