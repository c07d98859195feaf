/* Preloaded: one CUDA device for autograd's engine, the device guards and PyTorch's choice of attention. It computes
   nothing. The names are those of PyTorch's C++ functions (c10::cuda::device_count() and so on). */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef signed char index_t; /* c10::DeviceIndex */

index_t _ZN3c104cuda12device_countEv(void) { return 1; }
index_t _ZN3c104cuda28device_count_ensure_non_zeroEv(void) { return 1; }
index_t _ZN3c104cuda14current_deviceEv(void) { return 0; }
index_t _ZN3c104cuda14ExchangeDeviceEa(index_t i) { return 0; }
index_t _ZN3c104cuda19MaybeExchangeDeviceEa(index_t i) { return 0; }
bool _ZN3c104cuda17hasPrimaryContextEa(index_t i) { return true; }
int _ZN3c104cuda9GetDeviceEPa(index_t *device) { *device = 0; return 0; }
int _ZN3c104cuda14GetDeviceCountEPi(int *count) { *count = 1; return 0; }
int _ZN3c104cuda9SetDeviceEa(index_t i) { return 0; }
int _ZN3c104cuda9SetDeviceEab(index_t i, bool force) { return 0; }
int _ZN3c104cuda14MaybeSetDeviceEa(index_t i) { return 0; }
void _ZN3c104cuda15SetTargetDeviceEv(void) {}
void _ZN3c104cuda10set_deviceEa(index_t i) {}
void _ZN3c104cuda10set_deviceEab(index_t i, bool force) {}

typedef struct { signed char type, index; int64_t id; } stream_t; /* c10::Stream: the default stream of cuda:0 */
static const stream_t default_stream = {1, 0, 0};
stream_t _ZN3c104cuda20getCurrentCUDAStreamEa(index_t i) { return default_stream; }
stream_t _ZN3c104cuda20getDefaultCUDAStreamEa(index_t i) { return default_stream; }
void _ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE(stream_t stream) {}

/* cudaDeviceProp: only what the choice of attention reads. STANDIN_SM is the compute capability: 80, 90. */
static char properties[4096];
__attribute__((constructor)) static void set_properties(void) {
    const char *text = getenv("STANDIN_SM");
    int sm = text ? atoi(text) : 90;
    *(uint64_t *)(properties + 288) = 80000000000ull; /* totalGlobalMem */
    *(int *)(properties + 308) = 32;                  /* warpSize */
    *(int *)(properties + 360) = sm / 10;             /* major */
    *(int *)(properties + 364) = sm % 10;             /* minor */
}
void *_ZN2at4cuda26getCurrentDevicePropertiesEv(void) { return properties; }
void *_ZN2at4cuda19getDevicePropertiesEa(index_t i) { return properties; }

/* The driver, which is looked up under this library's soname. */
int cuInit(unsigned flags) { return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }

/* Events, which PyTorch 2.4 records after a backward pass; all work is done at once, so they have always happened. */
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = &properties; return 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventQuery(void *event) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaEventDestroy(void *event) { return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
