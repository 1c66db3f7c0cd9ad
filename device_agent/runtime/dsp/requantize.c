#include "dsp.h"

#define BIAS_LIMIT (INT32_C(3) << 28) /* the compiler gives at most about 2^29 */

int fleet_dsp_is_fast(const fleet_kernel_context_t *context, uint32_t first, uint32_t count)
{
    for (uint32_t entry = first; entry < first + count; entry++) {
        if (context->biases[entry] <= -BIAS_LIMIT || context->biases[entry] >= BIAS_LIMIT) {
            return 0;
        }
    }
    return 1;
}

int8_t fleet_dsp_requantize_up(int32_t sum, int32_t multiplier, int32_t shift, int32_t zero_point)
{
    return fleet_to_int8(fleet_rescale(sum, multiplier, shift), zero_point, INT8_MIN, INT8_MAX);
}
