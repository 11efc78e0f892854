/* A driver without PnP that asks its own second device through packets that the I/O manager builds, and uses what older drivers use:
 * interlocked lists, strings of both kinds, tables of registry values, timers of devices, work queue items, the error log, events by
 * handle, pages for a list. */
#define DBG 1
#include "common.h"

#define DEVICE_NAME L"\\Device\\Ddi"
#define LINK_NAME L"\\DosDevices\\Ddi"
#define TARGET_NAME L"\\Device\\DdiTarget"
#define TAG 'idDD'
/* The headers have it since Windows 7 only. */
#ifndef RTL_QUERY_REGISTRY_TYPECHECK
#define RTL_QUERY_REGISTRY_TYPECHECK 0x00000100
#endif

enum {
  REQUESTS, /* the line of the first check that fails, or 0 */
  LISTS,
  STRINGS,
  REGISTRY,
  TIMER,
  WORK,
  ERROR_LOG,
  EVENTS,
  PAGES,
  LOCK_COUNT, /* more acquisitions of a remove lock than its limit */
  LOCK_TIME,  /* a remove lock held longer than its limit */
  LOCK_TAG,   /* a remove lock given back with another tag */
  WORK_TWICE, /* a work queue item queued twice */
  LIST_LOCK,  /* an interlocked list whose lock is held */
  FORMATS
};

typedef struct {
  BOOLEAN isTarget;
  ULONG ticks;
  KEVENT ticked;
  IO_REMOVE_LOCK lock;
} EXTENSION;

static PDEVICE_OBJECT target;
static WORK_QUEUE_ITEM item;
static KEVENT worked;

#define CHECK(condition) \
  if (!(condition)) return __LINE__

/* What the target does: it reads and writes a pattern, and answers controls with the sum of what it was given. */
static NTSTATUS NTAPI DispatchTarget(PIRP irp) {
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  ULONG length = location->Parameters.Read.Length;
  PUCHAR data = target->Flags & DO_DIRECT_IO ? (length ? MmGetSystemAddressForMdlSafe(irp->MdlAddress, NormalPagePriority) : NULL)
                                             : irp->AssociatedIrp.SystemBuffer;
  switch (location->MajorFunction) {
    case IRP_MJ_READ:
      if (location->Parameters.Read.ByteOffset.QuadPart == 99) return Complete(irp, STATUS_END_OF_FILE, 0);
      for (ULONG index = 0; index < length; index++)
        data[index] = (UCHAR)(location->Parameters.Read.ByteOffset.QuadPart + index);
      return Complete(irp, STATUS_SUCCESS, length);
    case IRP_MJ_WRITE: return Complete(irp, data[0] == 7 ? STATUS_SUCCESS : STATUS_DATA_ERROR, length);
    case IRP_MJ_DEVICE_CONTROL:
    case IRP_MJ_INTERNAL_DEVICE_CONTROL: {
      ULONG sum = location->MajorFunction;
      PUCHAR input = irp->AssociatedIrp.SystemBuffer;
      for (ULONG index = 0; index < location->Parameters.DeviceIoControl.InputBufferLength; index++) sum += input[index];
      if (location->Parameters.DeviceIoControl.OutputBufferLength < sizeof sum)
        return Complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
      PVOID output = METHOD_FROM_CTL_CODE(location->Parameters.DeviceIoControl.IoControlCode) == METHOD_OUT_DIRECT
                         ? MmGetSystemAddressForMdlSafe(irp->MdlAddress, NormalPagePriority)
                         : irp->AssociatedIrp.SystemBuffer;
      RtlCopyMemory(output, &sum, sizeof sum);
      return Complete(irp, STATUS_SUCCESS, sizeof sum);
    }
    default: return Complete(irp, STATUS_SUCCESS, 0);
  }
}

static NTSTATUS Send(PDEVICE_OBJECT device, PIRP irp, PKEVENT event, PIO_STATUS_BLOCK block) {
  NTSTATUS status = IoCallDriver(device, irp);
  if (status != STATUS_PENDING) return status;
  KeWaitForSingleObject(event, Executive, KernelMode, FALSE, NULL);
  return block->Status;
}

static ULONG Control(PDEVICE_OBJECT device, ULONG method, BOOLEAN internal, PULONG sum) {
  KEVENT event;
  IO_STATUS_BLOCK block = {0};
  UCHAR input[3] = {1, 2, 3};
  KeInitializeEvent(&event, NotificationEvent, FALSE);
  PIRP irp = IoBuildDeviceIoControlRequest(TEST_IOCTL(1, method), device, input, sizeof input, sum, sizeof *sum, internal,
                                           &event, &block);
  CHECK(irp);
  CHECK(Send(device, irp, &event, &block) == STATUS_SUCCESS);
  CHECK(block.Information == sizeof *sum && KeReadStateEvent(&event));
  irp = IoBuildDeviceIoControlRequest(TEST_IOCTL(1, method), device, input, sizeof input, NULL, 0, internal, &event, &block);
  CHECK(irp);
  KeClearEvent(&event);
  CHECK(Send(device, irp, &event, &block) == STATUS_BUFFER_TOO_SMALL && !KeReadStateEvent(&event));
  return 0;
}

static ULONG Read(PDEVICE_OBJECT device) {
  KEVENT event;
  IO_STATUS_BLOCK block = {0};
  LARGE_INTEGER offset = {.QuadPart = 40};
  UCHAR buffer[5] = {0};
  KeInitializeEvent(&event, NotificationEvent, FALSE);
  PIRP irp = IoBuildSynchronousFsdRequest(IRP_MJ_READ, device, buffer, sizeof buffer, &offset, &event, &block);
  CHECK(irp);
  CHECK(NT_SUCCESS(Send(device, irp, &event, &block)));
  CHECK(block.Information == 5 && buffer[0] == 40 && buffer[4] == 44);
  buffer[0] = 7;
  irp = IoBuildSynchronousFsdRequest(IRP_MJ_WRITE, device, buffer, sizeof buffer, &offset, &event, &block);
  CHECK(irp && NT_SUCCESS(Send(device, irp, &event, &block)));
  irp = IoBuildSynchronousFsdRequest(IRP_MJ_FLUSH_BUFFERS, device, NULL, 0, NULL, &event, &block);
  CHECK(irp && NT_SUCCESS(Send(device, irp, &event, &block)));
  return 0;
}

static NTSTATUS NTAPI Ended(PDEVICE_OBJECT device, PIRP irp, PVOID context) {
  UNREFERENCED_PARAMETER(device);
  *(PUCHAR)context = irp->AssociatedIrp.SystemBuffer ? *(PUCHAR)irp->AssociatedIrp.SystemBuffer : 0;
  if (irp->Flags & IRP_DEALLOCATE_BUFFER) ExFreePool(irp->AssociatedIrp.SystemBuffer);
  while (irp->MdlAddress) {
    PMDL mdl = irp->MdlAddress;
    irp->MdlAddress = mdl->Next;
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
  }
  IoFreeIrp(irp);
  return STATUS_MORE_PROCESSING_REQUIRED;
}

static ULONG ReadAsynchronously(PDEVICE_OBJECT device) {
  IO_STATUS_BLOCK block;
  LARGE_INTEGER offset = {.QuadPart = 50};
  UCHAR buffer[8] = {0}, first = 0;
  PIRP irp = IoBuildAsynchronousFsdRequest(IRP_MJ_READ, device, buffer, sizeof buffer, &offset, &block);
  CHECK(irp);
  CHECK(NT_SUCCESS(IoSetCompletionRoutineEx(device, irp, Ended, &first, TRUE, TRUE, TRUE)));
  IoCallDriver(device, irp);
  CHECK(device->Flags & DO_BUFFERED_IO ? first == 50 : buffer[0] == 50);
  return 0;
}

static ULONG CheckRequests(void) {
  UNICODE_STRING name = RTL_CONSTANT_STRING(TARGET_NAME), none = RTL_CONSTANT_STRING(L"\\Device\\Nobody");
  PFILE_OBJECT file;
  PDEVICE_OBJECT device;
  ULONG line, sum = 0;
  CHECK(IoGetDeviceObjectPointer(&none, FILE_READ_DATA, &file, &device) == STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(NT_SUCCESS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &device)));
  CHECK(device == target && file->DeviceObject == target && target->ReferenceCount == 1);
  CHECK(IoGetRelatedDeviceObject(file) == device && IoGetAttachedDevice(device) == device);
  if ((line = Control(device, METHOD_BUFFERED, FALSE, &sum))) return line;
  CHECK(sum == IRP_MJ_DEVICE_CONTROL + 6);
  if ((line = Control(device, METHOD_OUT_DIRECT, TRUE, &sum))) return line;
  CHECK(sum == IRP_MJ_INTERNAL_DEVICE_CONTROL + 6);
  for (ULONG manner = 0; manner < 2; manner++) {
    target->Flags = (target->Flags & ~(DO_BUFFERED_IO | DO_DIRECT_IO)) | (manner ? DO_DIRECT_IO : DO_BUFFERED_IO);
    if ((line = Read(device))) return line;
    if ((line = ReadAsynchronously(device))) return line;
  }
  ObDereferenceObject(file);
  CHECK(target->ReferenceCount == 0);
  return 0;
}

static ULONG CheckLists(void) {
  LIST_ENTRY head, entry[3];
  SINGLE_LIST_ENTRY stack = {0}, link[2];
  KSPIN_LOCK lock;
  ULONG number = 5;
  LARGE_INTEGER large = {.QuadPart = 5}, more = {.QuadPart = 1LL << 40};
  KeInitializeSpinLock(&lock);
  InitializeListHead(&head);
  CHECK(!ExInterlockedRemoveHeadList(&head, &lock));
  CHECK(!ExInterlockedInsertTailList(&head, &entry[0], &lock));
  CHECK(ExInterlockedInsertTailList(&head, &entry[1], &lock) == &entry[0]);
  CHECK(ExInterlockedInsertHeadList(&head, &entry[2], &lock) == &entry[0]);
  CHECK(ExInterlockedRemoveHeadList(&head, &lock) == &entry[2]);
  CHECK(ExInterlockedRemoveHeadList(&head, &lock) == &entry[0]);
  CHECK(ExInterlockedRemoveHeadList(&head, &lock) == &entry[1] && IsListEmpty(&head));
  CHECK(!ExInterlockedPushEntryList(&stack, &link[0], &lock) && ExInterlockedPushEntryList(&stack, &link[1], &lock) == &link[0]);
  CHECK(ExInterlockedPopEntryList(&stack, &lock) == &link[1] && ExInterlockedPopEntryList(&stack, &lock) == &link[0]);
  CHECK(!ExInterlockedPopEntryList(&stack, &lock));
  CHECK(ExInterlockedAddUlong(&number, 3, &lock) == 5 && number == 8);
  CHECK(ExInterlockedAddLargeInteger(&large, more, &lock).QuadPart == 5 && large.QuadPart == (1LL << 40) + 5);
  return 0;
}

static ULONG CheckStrings(void) {
  ANSI_STRING ansi, other, small;
  UNICODE_STRING wide, upper, prefix = RTL_CONSTANT_STRING(L"aB"), hex = RTL_CONSTANT_STRING(L" -0x1Fz");
  UNICODE_STRING text = RTL_CONSTANT_STRING(L"{5b0f9d1c-60e2-4f0b-8f9d-2c6f0d1b7a31}");
  WCHAR room[12];
  CHAR little[3];
  ULONG number;
  GUID guid;
  RtlInitAnsiString(&ansi, "Abc");
  CHECK(ansi.Length == 3 && ansi.MaximumLength == 4);
  RtlInitString(&other, "aBC");
  CHECK(RtlEqualString(&ansi, &other, TRUE) && !RtlEqualString(&ansi, &other, FALSE) && RtlCompareString(&ansi, &other, FALSE) < 0);
  CHECK(NT_SUCCESS(RtlAnsiStringToUnicodeString(&wide, &ansi, TRUE)) && wide.Length == 6 && wide.Buffer[3] == 0);
  CHECK(RtlPrefixUnicodeString(&prefix, &wide, TRUE) && !RtlPrefixUnicodeString(&prefix, &wide, FALSE));
  CHECK(NT_SUCCESS(RtlUpcaseUnicodeString(&upper, &wide, TRUE)) && upper.Buffer[2] == L'C');
  CHECK(RtlUpcaseUnicodeChar(0xE4) == 0xC4);
  small.Buffer = little;
  small.MaximumLength = sizeof little;
  CHECK(RtlUnicodeStringToAnsiString(&small, &wide, FALSE) == STATUS_BUFFER_OVERFLOW);
  CHECK(NT_SUCCESS(RtlUnicodeStringToAnsiString(&small, &wide, TRUE)) && RtlEqualString(&small, &ansi, FALSE));
  RtlFreeAnsiString(&small);
  RtlFreeUnicodeString(&wide);
  RtlFreeUnicodeString(&upper);
  CHECK(NT_SUCCESS(RtlUnicodeStringToInteger(&hex, 0, &number)) && (LONG)number == -31);
  wide.Buffer = room;
  wide.MaximumLength = sizeof room;
  CHECK(NT_SUCCESS(RtlIntegerToUnicodeString(255, 16, &wide)) && wide.Length == 4 && room[0] == L'F');
  CHECK(NT_SUCCESS(RtlGUIDFromString(&text, &guid)) && guid.Data1 == 0x5b0f9d1c && guid.Data4[7] == 0x31);
  CHECK(!NT_SUCCESS(RtlGUIDFromString(&prefix, &guid)));
  return 0;
}

static NTSTATUS NTAPI Query(PWSTR name, ULONG type, PVOID data, ULONG length, PVOID context, PVOID own) {
  if (type == REG_DWORD && length == sizeof(ULONG) && name[0] == L'N') *(PULONG)own = *(PULONG)data + *(PULONG)context;
  return STATUS_SUCCESS;
}

static ULONG CheckRegistry(void) {
  UNICODE_STRING text = {0};
  ULONG number = 0, told = 0, missing = 0, fallback = 9, context = 100;
  RTL_QUERY_REGISTRY_TABLE table[] = {
      {NULL, RTL_QUERY_REGISTRY_SUBKEY, L"Parameters", NULL, REG_NONE, NULL, 0},
      {NULL, RTL_QUERY_REGISTRY_DIRECT | RTL_QUERY_REGISTRY_TYPECHECK, L"Number", &number, REG_DWORD << 24, NULL, 0},
      {NULL, RTL_QUERY_REGISTRY_DIRECT, L"Text", &text, REG_NONE, NULL, 0},
      {NULL, RTL_QUERY_REGISTRY_DIRECT, L"Missing", &missing, REG_DWORD, &fallback, sizeof fallback},
      {Query, 0, L"Number", &told, REG_NONE, NULL, 0},
      {0}};
  RTL_QUERY_REGISTRY_TABLE required[] = {
      {NULL, RTL_QUERY_REGISTRY_DIRECT | RTL_QUERY_REGISTRY_REQUIRED, L"Missing", &missing, REG_NONE, NULL, 0}, {0}};
  CHECK(NT_SUCCESS(RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, L"ddi", table, &context, NULL)));
  CHECK(number == 42 && told == 142 && missing == 9 && text.Length == 10 && text.Buffer[0] == L'h');
  RtlFreeUnicodeString(&text);
  table[1].DefaultType = REG_SZ << 24;
  CHECK(RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, L"ddi", table, &context, NULL) == STATUS_OBJECT_TYPE_MISMATCH);
  CHECK(RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, L"ddi", required, NULL, NULL) == STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, L"nobody", required, NULL, NULL) == STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(NT_SUCCESS(RtlQueryRegistryValues(RTL_REGISTRY_SERVICES | RTL_REGISTRY_OPTIONAL, L"nobody", required, NULL, NULL)));
  CHECK(NT_SUCCESS(RtlWriteRegistryValue(RTL_REGISTRY_SERVICES, L"ddi", L"Missing", REG_DWORD, &context, sizeof context)));
  CHECK(NT_SUCCESS(RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, L"ddi", required, NULL, NULL)) && missing == 100);
  CHECK(NT_SUCCESS(RtlDeleteRegistryValue(RTL_REGISTRY_SERVICES, L"ddi", L"Missing")));
  CHECK(RtlDeleteRegistryValue(RTL_REGISTRY_SERVICES, L"ddi", L"Missing") == STATUS_OBJECT_NAME_NOT_FOUND);
  return 0;
}

static void NTAPI Tick(PDEVICE_OBJECT device, PVOID context) {
  EXTENSION *own = device->DeviceExtension;
  if (context == own && KeGetCurrentIrql() == DISPATCH_LEVEL && ++own->ticks == 2)
    KeSetEvent(&own->ticked, IO_NO_INCREMENT, FALSE);
}

static ULONG CheckTimer(PDEVICE_OBJECT device) {
  EXTENSION *own = device->DeviceExtension;
  LARGE_INTEGER delay = {.QuadPart = -30000000};
  own->ticks = 0;
  KeInitializeEvent(&own->ticked, NotificationEvent, FALSE);
  CHECK(NT_SUCCESS(IoInitializeTimer(device, Tick, own)));
  IoStartTimer(device);
  KeWaitForSingleObject(&own->ticked, Executive, KernelMode, FALSE, NULL);
  IoStopTimer(device);
  ULONG ticks = own->ticks;
  KeDelayExecutionThread(KernelMode, FALSE, &delay);
  CHECK(own->ticks == ticks);
  return 0;
}

static void NTAPI Work(PVOID context) {
  if (ExGetPreviousMode() == KernelMode) KeSetEvent(context, IO_NO_INCREMENT, FALSE);
}

static ULONG CheckWork(void) {
  KeInitializeEvent(&worked, SynchronizationEvent, FALSE);
  for (ULONG times = 0; times < 2; times++) {
    ExInitializeWorkItem(&item, Work, &worked);
    ExQueueWorkItem(&item, DelayedWorkQueue);
    KeWaitForSingleObject(&worked, Executive, KernelMode, FALSE, NULL);
  }
  CHECK(ExGetPreviousMode() == UserMode);
  return 0;
}

static ULONG CheckErrorLog(PDEVICE_OBJECT device) {
  CHECK(!IoAllocateErrorLogEntry(device, ERROR_LOG_MAXIMUM_SIZE + 1));
  PIO_ERROR_LOG_PACKET entry = IoAllocateErrorLogEntry(device, sizeof *entry);
  CHECK(entry);
  IoFreeErrorLogEntry(entry);
  entry = IoAllocateErrorLogEntry(device, sizeof *entry);
  CHECK(entry);
  entry->ErrorCode = (NTSTATUS)0xC0040004;
  entry->FinalStatus = STATUS_DEVICE_NOT_READY;
  IoWriteErrorLogEntry(entry);
  return 0;
}

static ULONG CheckEvents(void) {
  UNICODE_STRING name = RTL_CONSTANT_STRING(L"\\KernelObjects\\Ddi");
  OBJECT_ATTRIBUTES attributes;
  HANDLE first, second, third;
  LARGE_INTEGER now = {0};
  LONG before = 7;
  PVOID event;
  InitializeObjectAttributes(&attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
  CHECK(NT_SUCCESS(ZwCreateEvent(&first, EVENT_ALL_ACCESS, &attributes, SynchronizationEvent, FALSE)));
  CHECK(ZwWaitForSingleObject(first, FALSE, &now) == STATUS_TIMEOUT);
  CHECK(NT_SUCCESS(ZwSetEvent(first, &before)) && before == 0);
  CHECK(ZwWaitForSingleObject(first, FALSE, &now) == STATUS_SUCCESS);
  CHECK(ZwWaitForSingleObject(first, FALSE, &now) == STATUS_TIMEOUT);
  CHECK(NT_SUCCESS(ObReferenceObjectByHandle(first, SYNCHRONIZE, *ExEventObjectType, KernelMode, &event, NULL)));
  ZwClose(first);
  KeSetEvent(event, IO_NO_INCREMENT, FALSE);
  KeWaitForSingleObject(event, Executive, KernelMode, FALSE, NULL);
  ObDereferenceObject(event);
  InitializeObjectAttributes(&attributes, &name, OBJ_KERNEL_HANDLE, NULL, NULL);
  CHECK(ZwOpenEvent(&first, EVENT_ALL_ACCESS, &attributes) == STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(NT_SUCCESS(ZwCreateEvent(&first, EVENT_ALL_ACCESS, &attributes, NotificationEvent, FALSE)));
  CHECK(ZwCreateEvent(&second, EVENT_ALL_ACCESS, &attributes, NotificationEvent, FALSE) == STATUS_OBJECT_NAME_COLLISION);
  CHECK(NT_SUCCESS(ZwOpenEvent(&second, EVENT_ALL_ACCESS, &attributes)));
  PKEVENT same = IoCreateSynchronizationEvent(&name, &third);
  CHECK(same && NT_SUCCESS(ZwSetEvent(second, NULL)) && KeReadStateEvent(same));
  ZwClose(first);
  ZwClose(second);
  ZwClose(third);
  CHECK(ZwOpenEvent(&first, EVENT_ALL_ACCESS, &attributes) == STATUS_OBJECT_NAME_NOT_FOUND);
  return 0;
}

static ULONG CheckPages(void) {
  PHYSICAL_ADDRESS low = {0}, high = {.QuadPart = -1}, skip = {0};
  PMDL pages = MmAllocatePagesForMdlEx(low, high, skip, 3 * PAGE_SIZE - 5, MmCached, MM_ALLOCATE_FULLY_REQUIRED);
  CHECK(pages && MmGetMdlByteCount(pages) == 3 * PAGE_SIZE);
  PUCHAR mapped = MmMapLockedPagesSpecifyCache(pages, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
  CHECK(mapped && !mapped[0] && !mapped[3 * PAGE_SIZE - 1]);
  mapped[PAGE_SIZE + 10] = 77;
  PUCHAR base = MmGetMdlVirtualAddress(pages);
  PMDL part = IoAllocateMdl(base + PAGE_SIZE + 8, PAGE_SIZE, FALSE, FALSE, NULL);
  CHECK(part);
  IoBuildPartialMdl(pages, part, base + PAGE_SIZE + 8, PAGE_SIZE);
  CHECK(MmGetMdlByteCount(part) == PAGE_SIZE && MmGetMdlByteOffset(part) == 8);
  CHECK(((PUCHAR)MmGetSystemAddressForMdlSafe(part, NormalPagePriority))[2] == 77);
  CHECK(MmGetMdlPfnArray(part)[0] == MmGetMdlPfnArray(pages)[1]);
  IoFreeMdl(part);
  MmUnmapLockedPages(mapped, pages);
  MmFreePagesFromMdl(pages);
  ExFreePool(pages);
  pages = MmAllocatePagesForMdl(low, high, skip, PAGE_SIZE);
  CHECK(pages);
  MmFreePagesFromMdl(pages);
  ExFreePool(pages);
  return 0;
}

static void HoldLock(EXTENSION *own, ULONG how) {
  LARGE_INTEGER delay = {.QuadPart = -610000000};
  IoAcquireRemoveLock(&own->lock, own);
  if (how == LOCK_COUNT) {
    IoAcquireRemoveLock(&own->lock, own + 1);
    IoAcquireRemoveLock(&own->lock, own + 2);
  }
  if (how == LOCK_TIME) KeDelayExecutionThread(KernelMode, FALSE, &delay);
  IoReleaseRemoveLock(&own->lock, how == LOCK_TAG ? NULL : own);
}

static void QueueTwice(void) {
  ExInitializeWorkItem(&item, Work, &worked);
  KIRQL irql;
  KeRaiseIrql(DISPATCH_LEVEL, &irql);
  ExQueueWorkItem(&item, DelayedWorkQueue);
  item.List.Flink = &item.List;
  ExQueueWorkItem(&item, DelayedWorkQueue);
  KeLowerIrql(irql);
}

static void ListUnderLock(void) {
  LIST_ENTRY head, entry;
  KSPIN_LOCK lock;
  KIRQL irql;
  KeInitializeSpinLock(&lock);
  InitializeListHead(&head);
  KeAcquireSpinLock(&lock, &irql);
  ExInterlockedInsertTailList(&head, &entry, &lock);
  KeReleaseSpinLock(&lock, irql);
}

/* What ntstrsafe.h builds on. */
int __cdecl _snprintf(char *buffer, size_t count, const char *format, ...);
int __cdecl _vsnprintf(char *buffer, size_t count, const char *format, __builtin_va_list arguments);
int __cdecl _snwprintf(WCHAR *buffer, size_t count, const WCHAR *format, ...);
int __cdecl _vsnwprintf(WCHAR *buffer, size_t count, const WCHAR *format, __builtin_va_list arguments);

static int Print(char *buffer, size_t count, const char *format, ...) {
  __builtin_va_list arguments;
  __builtin_va_start(arguments, format);
  int length = _vsnprintf(buffer, count, format, arguments);
  __builtin_va_end(arguments);
  return length;
}

static int PrintWide(WCHAR *buffer, size_t count, const WCHAR *format, ...) {
  __builtin_va_list arguments;
  __builtin_va_start(arguments, format);
  int length = _vsnwprintf(buffer, count, format, arguments);
  __builtin_va_end(arguments);
  return length;
}

static BOOLEAN Same(const void *left, const void *right, size_t bytes) {
  return RtlCompareMemory(left, right, bytes) == bytes;
}

static ULONG CheckFormats(void) {
  char text[40];
  WCHAR wide[40];
  UNICODE_STRING name = RTL_CONSTANT_STRING(L"name");
  CHECK(Print(text, sizeof text, "%d %5s|%-4u|%04x", -7, "abc", 42u, 0xBEu) == 18 && Same(text, "-7   abc|42  |00be", 19));
  CHECK(Print(text, sizeof text, "%I64x %S %wZ %c%%", 0x123456789AULL, L"wide", &name, 'z') == 23);
  CHECK(Same(text, "123456789a wide name z%", 24));
  CHECK(_snprintf(text, sizeof text, "%p", (PVOID)text) == 16 && text[16] == 0);
  CHECK(_snprintf(text, sizeof text, "%p", (PVOID)0xABC) == 16 && Same(text, "0000000000000ABC", 17));
  /* As much as there is room for, and an end only where there is room for it. */
  RtlFillMemory(text, sizeof text, 'x');
  CHECK(_snprintf(text, 4, "%s", "abcd") == 4 && Same(text, "abcdx", 5));
  CHECK(_snprintf(text, 3, "%s", "fghi") == -1 && Same(text, "fghdx", 5));
  CHECK(_snprintf(text, 5, "%.2s", "klmn") == 2 && Same(text, "kl\0dx", 5));
  CHECK(PrintWide(wide, RTL_NUMBER_OF(wide), L"%s %S %hs %u", L"wide", "narrow", "short", 3u) == 19);
  CHECK(Same(wide, L"wide narrow short 3", sizeof L"wide narrow short 3"));
  CHECK(_snwprintf(wide, 2, L"%d", 345) == -1 && wide[0] == L'3' && wide[1] == L'4' && wide[2] == L'd');
  return 0;
}

static ULONG Check(PDEVICE_OBJECT device, ULONG what) {
  EXTENSION *own = device->DeviceExtension;
  switch (what) {
    case REQUESTS: return CheckRequests();
    case LISTS: return CheckLists();
    case STRINGS: return CheckStrings();
    case REGISTRY: return CheckRegistry();
    case TIMER: return CheckTimer(device);
    case WORK: return CheckWork();
    case ERROR_LOG: return CheckErrorLog(device);
    case EVENTS: return CheckEvents();
    case PAGES: return CheckPages();
    case FORMATS: return CheckFormats();
    case WORK_TWICE: QueueTwice(); return 0;
    case LIST_LOCK: ListUnderLock(); return 0;
    default: HoldLock(own, what); return 0;
  }
}

static NTSTATUS NTAPI Dispatch(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  if (own->isTarget) return DispatchTarget(irp);
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  if (location->MajorFunction != IRP_MJ_DEVICE_CONTROL) return Complete(irp, STATUS_SUCCESS, 0);
  if (location->Parameters.DeviceIoControl.OutputBufferLength < sizeof(ULONG)) return Complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
  ULONG line = Check(device, (location->Parameters.DeviceIoControl.IoControlCode >> 2 & 0xFFF) - 0x800);
  *(PULONG)irp->AssociatedIrp.SystemBuffer = line;
  return Complete(irp, STATUS_SUCCESS, sizeof(ULONG));
}

static void NTAPI Unload(PDRIVER_OBJECT driver) {
  IoDeleteDevice(target);
  DeleteNamedDevice(driver->DeviceObject, LINK_NAME);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  UNREFERENCED_PARAMETER(path);
  UNICODE_STRING name = RTL_CONSTANT_STRING(TARGET_NAME);
  PDEVICE_OBJECT device;
  NTSTATUS status = CreateNamedDevice(driver, sizeof(EXTENSION), DEVICE_NAME, LINK_NAME, &device);
  if (!NT_SUCCESS(status)) return status;
  status = IoCreateDevice(driver, sizeof(EXTENSION), &name, FILE_DEVICE_UNKNOWN, 0, FALSE, &target);
  if (!NT_SUCCESS(status)) {
    DeleteNamedDevice(device, LINK_NAME);
    return status;
  }
  ((EXTENSION *)target->DeviceExtension)->isTarget = TRUE;
  IoInitializeRemoveLock(&((EXTENSION *)device->DeviceExtension)->lock, TAG, 1, 2);
  for (ULONG major = 0; major <= IRP_MJ_MAXIMUM_FUNCTION; major++) driver->MajorFunction[major] = Dispatch;
  driver->DriverUnload = Unload;
  return STATUS_SUCCESS;
}
