/* install INF HARDWARE-ID INSTANCE: makes a device and installs the INF for it, as a device manager does; then the INF's
 * event source, which Wine's setupapi leaves out. An instance with a backslash in it is taken as it is, else numbered. */

#include <windows.h>
#include <setupapi.h>
#include <stdio.h>

/* One line for what goes wrong; the exit code is 1. */
#define DO(call)                                              \
    do {                                                      \
        if (!(call)) {                                        \
            printf("%s: error %lu\n", #call, GetLastError()); \
            return 1;                                         \
        }                                                     \
    } while (0)

static int install_device(const WCHAR *inf, const WCHAR *id, const WCHAR *instance)
{
    GUID class;
    WCHAR class_name[32], ids[128] = {0};
    SP_DEVINFO_DATA device = {sizeof device};
    SP_DEVINSTALL_PARAMS_W parameters = {sizeof parameters};
    DWORD flags = wcschr(instance, '\\') ? 0 : DICD_GENERATE_ID;
    HDEVINFO list;

    DO(SetupDiGetINFClassW(inf, &class, class_name, 32, NULL));
    DO((list = SetupDiCreateDeviceInfoList(&class, NULL)) != INVALID_HANDLE_VALUE);
    DO(SetupDiCreateDeviceInfoW(list, instance, &class, NULL, NULL, flags, &device));
    lstrcpynW(ids, id, 127);
    DO(SetupDiSetDeviceRegistryPropertyW(list, &device, SPDRP_HARDWAREID, (BYTE *)ids, (lstrlenW(ids) + 2) * sizeof *ids));
    DO(SetupDiRegisterDeviceInfo(list, &device, 0, NULL, NULL, NULL));
    DO(SetupDiGetDeviceInstallParamsW(list, &device, &parameters));
    parameters.Flags |= DI_ENUMSINGLEINF;
    lstrcpynW(parameters.DriverPath, inf, MAX_PATH);
    DO(SetupDiSetDeviceInstallParamsW(list, &device, &parameters));
    DO(SetupDiBuildDriverInfoList(list, &device, SPDIT_COMPATDRIVER));
    DO(SetupDiSelectBestCompatDrv(list, &device));
    DO(SetupDiInstallDeviceInterfaces(list, &device));
    DO(SetupDiInstallDevice(list, &device));
    DO(SetupDiDestroyDeviceInfoList(list));
    return 0;
}

static int install_event_source(const WCHAR *inf)
{
    static const WCHAR name[] = L"SYSTEM\\CurrentControlSet\\Services\\EventLog\\System\\hotadd";
    HINF file;
    HKEY key;

    DO((file = SetupOpenInfFileW(inf, NULL, INF_STYLE_WIN4, NULL)) != INVALID_HANDLE_VALUE);
    DO(!RegCreateKeyExW(HKEY_LOCAL_MACHINE, name, 0, NULL, 0, KEY_ALL_ACCESS, NULL, &key, NULL));
    DO(SetupInstallFromInfSectionW(NULL, file, L"EventLog_Install", SPINST_REGISTRY, key, NULL, 0, NULL, NULL, NULL, NULL));
    RegCloseKey(key);
    SetupCloseInfFile(file);
    return 0;
}

int wmain(int count, WCHAR **arguments)
{
    if (count != 4) {
        printf("usage: install INF HARDWARE-ID INSTANCE\n");
        return 2;
    }
    return install_device(arguments[1], arguments[2], arguments[3]) || install_event_source(arguments[1]);
}
