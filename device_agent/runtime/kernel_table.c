#include "internal.h"

/* Operators with a kernel of their own for cores with the DSP extension; it calls the portable one where it must. */
#ifdef FLEET_KERNELS_DSP
#define FAST(name) fleet_dsp_##name
#else
#define FAST(name) fleet_##name
#endif

const fleet_kernel_t fleet_kernel_table[FLEET_OP_LAST + 1u] = {
    [FLEET_OP_CONV_2D] = FAST(conv_2d),
    [FLEET_OP_DEPTHWISE_CONV_2D] = FAST(depthwise_conv_2d),
    [FLEET_OP_FULLY_CONNECTED] = FAST(fully_connected),
    [FLEET_OP_ADD] = FAST(add),
    [FLEET_OP_MAX_POOL_2D] = fleet_max_pool_2d,
    [FLEET_OP_AVERAGE_POOL_2D] = fleet_average_pool_2d,
    [FLEET_OP_SOFTMAX] = fleet_softmax,
    [FLEET_OP_RESCALE] = fleet_rescale_s8,
    [FLEET_OP_TRANSPOSE] = fleet_transpose,
    [FLEET_OP_LUT_INT8] = fleet_lut_int8,
    [FLEET_OP_PRELU] = fleet_prelu,
};
