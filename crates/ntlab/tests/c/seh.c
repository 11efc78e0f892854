/* Structured exception handling in a driver without PnP: filters, termination handlers, probes of the user's addresses. */
#include "common.h"

#define DEVICE_NAME L"\\Device\\Seh"
#define LINK_NAME L"\\DosDevices\\Seh"

enum {
  COPY,           /* METHOD_NEITHER: copies the input to the output, each byte plus one */
  ORDER,          /* what runs in which order */
  RAISE,          /* a status raised three calls down */
  CONTINUE,       /* a filter mends the fault */
  DIVIDE,         /* an exception of the processor's */
  KEEP,           /* registers after an exception */
  SEARCH,         /* the inner filter does not want it */
  IN_FILTER,      /* the filter itself faults and handles that */
  UNHANDLED,      /* nobody takes it */
  SYSTEM_ADDRESS, /* an address of the system's is no exception */
  AT_DISPATCH,    /* nor is a user's at DISPATCH_LEVEL */
  TIME,           /* inlined reads of the shared page */
  PROBE,          /* METHOD_NEITHER: what ProbeForRead says to address and length in the input */
  LEAVE,          /* __leave, and a return out of __try */
  CONTINUE_RAISED /* a filter goes on after a raised status */
};

/* clang's __try guards calls, not accesses: these are called. */
__declspec(noinline) static void Store(volatile ULONG *place, ULONG value) { *place = value; }
__declspec(noinline) static ULONG Load(volatile ULONG *place) { return *place; }
__declspec(noinline) static void Divide(int a, volatile int *b) { *b = a / *b; }
__declspec(noinline) static void Move(UCHAR *to, const UCHAR *from, ULONG length) {
  for (ULONG at = 0; at < length; at++) to[at] = from[at] + 1;
}

/* Notes what ran. */
typedef struct {
  ULONG length;
  char steps[16];
} TRACE;

__declspec(noinline) static int Note(TRACE *trace, char step) {
  if (trace->length < sizeof trace->steps) trace->steps[trace->length++] = step;
  return 0;
}

static NTSTATUS Copy(PIRP irp, PIO_STACK_LOCATION location) {
  ULONG input = location->Parameters.DeviceIoControl.InputBufferLength;
  ULONG output = location->Parameters.DeviceIoControl.OutputBufferLength;
  ULONG length = input < output ? input : output;
  __try {
    ProbeForRead(location->Parameters.DeviceIoControl.Type3InputBuffer, input, 1);
    ProbeForWrite(irp->UserBuffer, output, 1);
    Move(irp->UserBuffer, location->Parameters.DeviceIoControl.Type3InputBuffer, length);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    return Complete(irp, GetExceptionCode(), 0);
  }
  return Complete(irp, STATUS_SUCCESS, length);
}

static NTSTATUS Probe(PIRP irp, PIO_STACK_LOCATION location) {
  ULONG64 *input = location->Parameters.DeviceIoControl.Type3InputBuffer;
  __try {
    ProbeForRead(input, 3 * sizeof *input, 8);
    ProbeForRead((void *)input[0], input[1], (ULONG)input[2]);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    return Complete(irp, GetExceptionCode(), 0);
  }
  return Complete(irp, STATUS_SUCCESS, 0);
}

/* Filter, then termination handlers from the inside to the outside, then the handler. */
static void Order(TRACE *trace) {
  __try {
    __try {
      __try {
        Note(trace, 'a');
        Store(NULL, 1);
        Note(trace, '!');
      } __finally {
        Note(trace, AbnormalTermination() ? 'c' : '!');
      }
    } __finally {
      Note(trace, AbnormalTermination() ? 'd' : '!');
    }
  } __except (Note(trace, 'b'), GetExceptionCode() == STATUS_ACCESS_VIOLATION) {
    Note(trace, 'e');
  }
  __try {
    Note(trace, 'f');
  } __finally {
    Note(trace, AbnormalTermination() ? '!' : 'g');
  }
}

__declspec(noinline) static void RaiseDeep(TRACE *trace, int depth) {
  __try {
    if (depth == 0) ExRaiseStatus(STATUS_DEVICE_NOT_READY);
    RaiseDeep(trace, depth - 1);
    Note(trace, '!');
  } __finally {
    Note(trace, (char)('0' + depth));
  }
}

static NTSTATUS Raise(TRACE *trace) {
  __try {
    RaiseDeep(trace, 3);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    return GetExceptionCode();
  }
  return STATUS_UNSUCCESSFUL;
}

/* Store has its address in rcx. */
static int Mend(PEXCEPTION_POINTERS pointers, ULONG *place) {
  PEXCEPTION_RECORD record = pointers->ExceptionRecord;
  BOOLEAN as_told = record->ExceptionCode == STATUS_ACCESS_VIOLATION && record->NumberParameters == 2 &&
                    record->ExceptionInformation[0] == 1 && record->ExceptionInformation[1] == 0x30 &&
                    (ULONG64)record->ExceptionAddress == pointers->ContextRecord->Rip && pointers->ContextRecord->Rdx == 77;
  if (!as_told) return EXCEPTION_CONTINUE_SEARCH;
  pointers->ContextRecord->Rcx = (ULONG64)place;
  return EXCEPTION_CONTINUE_EXECUTION;
}

static ULONG Continue(void) {
  ULONG place = 0;
  __try {
    Store((ULONG *)0x30, 77);
  } __except (Mend(GetExceptionInformation(), &place)) {
    return 0;
  }
  return place;
}

static NTSTATUS DivideByZero(void) {
  volatile int zero = 0;
  __try {
    Divide(5, &zero);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    return GetExceptionCode();
  }
  return STATUS_SUCCESS;
}

/* More values than are kept on the stack by habit, in general and in xmm registers. */
static ULONG64 Keep(ULONG seed) {
  ULONG a = seed * 3, b = seed * 5, c = seed * 7, d = seed * 11, e = seed * 13;
  double x = seed * 1.5, y = seed * 2.5, z = seed * 4.5;
  __try {
    Load(NULL);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    c += 1;
  }
  return a + b + c + d + e + (ULONG64)(x + y + z);
}

static void Search(TRACE *trace) {
  __try {
    __try {
      ExRaiseStatus(STATUS_DEVICE_BUSY);
    } __except (Note(trace, 'a'), EXCEPTION_CONTINUE_SEARCH) {
      Note(trace, '!');
    }
  } __except (Note(trace, 'b'), GetExceptionCode() == STATUS_DEVICE_BUSY) {
    Note(trace, 'c');
  }
}

__declspec(noinline) static int FaultingFilter(TRACE *trace) {
  __try {
    Store((ULONG *)8, 1);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    Note(trace, 'a');
  }
  return EXCEPTION_EXECUTE_HANDLER;
}

static void InFilter(TRACE *trace) {
  __try {
    ExRaiseStatus(STATUS_DEVICE_BUSY);
  } __except (FaultingFilter(trace)) {
    Note(trace, GetExceptionCode() == STATUS_DEVICE_BUSY ? 'b' : '!');
  }
}

static void SystemAddress(void) {
  ULONG *block = ExAllocatePoolWithTag(NonPagedPool, sizeof *block, 'hseT');
  if (!block) return;
  ExFreePoolWithTag(block, 'hseT');
  __try {
    Store(block, 1);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
  }
}

static void AtDispatch(void) {
  KIRQL irql;
  KeRaiseIrql(DISPATCH_LEVEL, &irql);
  __try {
    Store((ULONG *)0x10000, 1);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
  }
  KeLowerIrql(irql);
}

static void ContinueRaised(void) {
  __try {
    ExRaiseStatus(STATUS_DEVICE_BUSY);
  } __except (EXCEPTION_CONTINUE_EXECUTION) {
  }
}

static int Leave(TRACE *trace) {
  __try {
    Note(trace, 'a');
    __leave;
  } __finally {
    Note(trace, AbnormalTermination() ? '!' : 'b');
  }
  __try {
    Note(trace, 'c');
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    Note(trace, '!');
  }
  return Note(trace, 'd');
}

static void Time(ULONG64 *out) {
  LARGE_INTEGER system, ticks;
  out[0] = KeQueryInterruptTime();
  KeQuerySystemTime(&system);
  KeQueryTickCount(&ticks);
  out[1] = system.QuadPart;
  out[2] = ticks.QuadPart;
}

static NTSTATUS DispatchControl(PDEVICE_OBJECT device, PIRP irp) {
  UNREFERENCED_PARAMETER(device);
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  ULONG code = location->Parameters.DeviceIoControl.IoControlCode;
  if (code == TEST_IOCTL(COPY, METHOD_NEITHER)) return Copy(irp, location);
  if (code == TEST_IOCTL(PROBE, METHOD_NEITHER)) return Probe(irp, location);
  if (location->Parameters.DeviceIoControl.OutputBufferLength < 32) return Complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
  ULONG64 *out = irp->AssociatedIrp.SystemBuffer;
  NTSTATUS status = STATUS_SUCCESS;
  TRACE trace = {0};
  RtlZeroMemory(out, 32);
  switch ((code >> 2 & 0xFFF) - 0x800) {
    case ORDER: Order(&trace); break;
    case RAISE: out[3] = (ULONG)Raise(&trace); break;
    case CONTINUE: out[3] = Continue(); break;
    case DIVIDE: out[3] = (ULONG)DivideByZero(); break;
    case KEEP: out[3] = Keep((ULONG)(ULONG_PTR)irp & 0xFFF) - Keep((ULONG)(ULONG_PTR)irp & 0xFFF) + Keep(2); break;
    case SEARCH: Search(&trace); break;
    case IN_FILTER: InFilter(&trace); break;
    case UNHANDLED: Store((ULONG *)8, 1); break;
    case SYSTEM_ADDRESS: SystemAddress(); break;
    case AT_DISPATCH: AtDispatch(); break;
    case TIME: Time(out); break;
    case LEAVE: Leave(&trace); break;
    case CONTINUE_RAISED: ContinueRaised(); break;
    default: status = STATUS_INVALID_DEVICE_REQUEST;
  }
  RtlCopyMemory(out, trace.steps, trace.length);
  return Complete(irp, status, NT_SUCCESS(status) ? 32 : 0);
}

static NTSTATUS DispatchOpenClose(PDEVICE_OBJECT device, PIRP irp) {
  UNREFERENCED_PARAMETER(device);
  return Complete(irp, STATUS_SUCCESS, 0);
}

static void Unload(PDRIVER_OBJECT driver) { DeleteNamedDevice(driver->DeviceObject, LINK_NAME); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  UNREFERENCED_PARAMETER(path);
  PDEVICE_OBJECT device;
  driver->DriverUnload = Unload;
  driver->MajorFunction[IRP_MJ_CREATE] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_CLOSE] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_CLEANUP] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = DispatchControl;
  return CreateNamedDevice(driver, 0, DEVICE_NAME, LINK_NAME, &device);
}
