#include "internal.h"

const fleet_kernel_t fleet_kernel_table[FLEET_OP_LAST + 1u] = {
    [FLEET_OP_CONV_2D] = fleet_conv_2d,
    [FLEET_OP_DEPTHWISE_CONV_2D] = fleet_depthwise_conv_2d,
    [FLEET_OP_FULLY_CONNECTED] = fleet_fully_connected,
    [FLEET_OP_ADD] = fleet_add,
    [FLEET_OP_MAX_POOL_2D] = fleet_max_pool_2d,
    [FLEET_OP_AVERAGE_POOL_2D] = fleet_average_pool_2d,
    [FLEET_OP_SOFTMAX] = fleet_softmax,
    [FLEET_OP_RESCALE] = fleet_rescale_s8,
    [FLEET_OP_TRANSPOSE] = fleet_transpose,
};
