/* A driver that leaves memory behind. */
#include "common.h"

static void NTAPI Unload(PDRIVER_OBJECT driver) { UNREFERENCED_PARAMETER(driver); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  UNREFERENCED_PARAMETER(path);
  driver->DriverUnload = Unload;
  return ExAllocatePoolWithTag(NonPagedPool, 100, 'kaeL') ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}
