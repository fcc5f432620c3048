// A fake of the driver's library NVML, with the functions that the package nvidia-ml-py calls. It has two GPUs of 80 and
// 40 GiB, 1593 and 1215 MHz, and 100 W each. With PADDOCK_TEST_NVML=broken, requesting a device fails.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, UNKNOWN = 999 };
typedef struct device *device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;

static const unsigned long long GIB = 1024ULL * 1024 * 1024;
static char devices[2];
static int number(device_t device) { return (int)((char *)device - devices); }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : "Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
    const char *mode = getenv("PADDOCK_TEST_NVML");
    if (mode && !strcmp(mode, "broken")) return UNKNOWN;
    if (index > 1) return INVALID_ARGUMENT;
    *device = (device_t)(devices + index);
    return SUCCESS;
}

int nvmlDeviceGetName(device_t device, char *name, unsigned length) {
    snprintf(name, length, "Test GPU %d", number(device));
    return SUCCESS;
}

int nvmlDeviceGetUUID(device_t device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%d0000000-aaaa-bbbb-cccc-dddddddddddd", number(device));
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory) {
    memory->total = (number(device) ? 40 : 80) * GIB;
    memory->used = GIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

// The driver reserves 480 MiB of the 80 GiB GPU; for the other one it is too old to have this function.
int nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory) {
    if (number(device)) return INVALID_ARGUMENT;
    memory->total = 80 * GIB;
    memory->reserved = 480ULL * 1024 * 1024;
    memory->used = GIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(device_t device, int type, unsigned *mhz) {
    if (type != 2) return INVALID_ARGUMENT;  // NVML_CLOCK_MEM
    *mhz = number(device) ? 1215 : 1593;
    return SUCCESS;
}

int nvmlDeviceGetMemoryBusWidth(device_t device, unsigned *bits) { (void)device; *bits = 5120; return SUCCESS; }

int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *millijoules) {
    struct timespec now;
    (void)device;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 100000ULL * now.tv_sec + now.tv_nsec / 10000;  // 100 W
    return SUCCESS;
}
