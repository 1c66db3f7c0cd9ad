#include "dsp.h"

#define BIAS_LIMIT (INT32_C(3) << 28)

uint32_t fleet_dsp_short_channels(const int32_t *biases, uint32_t count)
{
    uint32_t channel = 0;
    while (channel < count && biases[channel] > -BIAS_LIMIT && biases[channel] < BIAS_LIMIT) {
        channel++;
    }
    return channel;
}

int8_t fleet_dsp_requantize_long(int32_t sum, int32_t multiplier, int32_t shift, int32_t zero_point)
{
    return fleet_to_int8(fleet_rescale(sum, multiplier, shift), zero_point, INT8_MIN, INT8_MAX);
}
