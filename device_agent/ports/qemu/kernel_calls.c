/*
 * Which library ran each operator. With FLEET_KERNEL_CALLS the linker wraps CMSIS-NN's entries and our kernels behind its
 * adapters (CMakeLists.txt); leaving QEMU writes calls.bin: a record a call, in order, of every run of the image.
 */
#include "bench.h"
#include "internal.h"

#include <arm_nnfunctions.h>

#define MAX_CALLS 8192u

typedef struct {
    uint32_t ran_by; /* 1: CMSIS-NN, 2: ours */
    uint32_t instructions;
} call_t;

static call_t calls[MAX_CALLS];
static uint32_t count;
static int inside; /* CMSIS-NN's entries call each other */

void __real_fleet_host_exit(int failed);
void __wrap_fleet_host_exit(int failed);

static void note(uint32_t library, uint64_t before)
{
    if (count < MAX_CALLS) {
        calls[count].ran_by = library;
        calls[count].instructions = (uint32_t)(fleet_counter_instructions() - before);
        count++;
    }
}

void __wrap_fleet_host_exit(int failed)
{
    const int file = fleet_host_open("calls.bin", FLEET_HOST_WRITE);
    (void)fleet_host_write(file, calls, count * sizeof(calls[0]));
    __real_fleet_host_exit(failed);
}

#define OURS(name)                                                                                                          \
    void __real_##name(const fleet_kernel_context_t *context, const void *record);                                         \
    void __wrap_##name(const fleet_kernel_context_t *context, const void *record);                                         \
    void __wrap_##name(const fleet_kernel_context_t *context, const void *record)                                          \
    {                                                                                                                       \
        const uint64_t before = fleet_counter_instructions();                                                              \
        __real_##name(context, record);                                                                                     \
        note(2u, before);                                                                                                   \
    }

/* All four take the same eleven arguments but for the types of their parameters and scales. */
#define THEIRS(name, params_t, scales_t)                                                                                    \
    typedef arm_cmsis_nn_status name##_t(const cmsis_nn_context *, const params_t *, const scales_t *,                     \
                                         const cmsis_nn_dims *, const int8_t *, const cmsis_nn_dims *, const int8_t *,     \
                                         const cmsis_nn_dims *, const int32_t *, const cmsis_nn_dims *, int8_t *);         \
    name##_t __real_##name, __wrap_##name;                                                                                  \
    arm_cmsis_nn_status __wrap_##name(const cmsis_nn_context *buffer, const params_t *params, const scales_t *scales,      \
                                      const cmsis_nn_dims *input_dims, const int8_t *input,                                \
                                      const cmsis_nn_dims *filter_dims, const int8_t *filter,                              \
                                      const cmsis_nn_dims *bias_dims, const int32_t *bias,                                 \
                                      const cmsis_nn_dims *output_dims, int8_t *output)                                    \
    {                                                                                                                       \
        const int outermost = !inside;                                                                                      \
        const uint64_t before = fleet_counter_instructions();                                                              \
        inside = 1;                                                                                                         \
        const arm_cmsis_nn_status status = __real_##name(buffer, params, scales, input_dims, input, filter_dims, filter,   \
                                                         bias_dims, bias, output_dims, output);                            \
        if (outermost) {                                                                                                    \
            note(1u, before);                                                                                               \
            inside = 0;                                                                                                     \
        }                                                                                                                   \
        return status;                                                                                                      \
    }

OURS(fleet_dsp_conv_2d)
OURS(fleet_dsp_depthwise_conv_2d)
OURS(fleet_dsp_fully_connected)
THEIRS(arm_convolve_wrapper_s8, cmsis_nn_conv_params, cmsis_nn_per_channel_quant_params)
THEIRS(arm_convolve_1x1_s8_fast, cmsis_nn_conv_params, cmsis_nn_per_channel_quant_params)
THEIRS(arm_depthwise_conv_wrapper_s8, cmsis_nn_dw_conv_params, cmsis_nn_per_channel_quant_params)
THEIRS(arm_fully_connected_s8, cmsis_nn_fc_params, cmsis_nn_per_tensor_quant_params)
