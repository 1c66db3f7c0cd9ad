/* RESIZE_BILINEAR: four neighbours weighted by 1 / 2048ths along both axes, rounded once. Formula: compiler/NUMERICS.md. */
#include "fixed_point.h"
#include "internal.h"

#define ONE (1 << FLEET_RESIZE_FRACTION_BITS)

/* One axis of one output pixel: bytes to the two neighbours, weight of the second. */
typedef struct {
    size_t low;
    size_t high;
    int32_t fraction;
} place_t;

static place_t place_at(const int16_t *entry, size_t bytes)
{
    place_t place;
    place.low = (size_t)entry[0] * bytes;
    place.fraction = entry[1];
    place.high = place.low + (entry[1] > 0 ? bytes : 0u);
    return place;
}

static int32_t blend(int32_t low, int32_t high, int32_t fraction)
{
    return low * (ONE - fraction) + high * fraction;
}

static void resize_pixel(const int8_t *input, place_t y, place_t x, uint32_t channels, int8_t *output)
{
    const int8_t *upper = input + y.low;
    const int8_t *lower = input + y.high;
    for (uint32_t c = 0; c < channels; c++) {
        const int32_t top = blend(upper[x.low + c], upper[x.high + c], x.fraction);
        const int32_t bottom = blend(lower[x.low + c], lower[x.high + c], x.fraction);
        output[c] = (int8_t)fleet_round_shift(blend(top, bottom, y.fraction), 2u * FLEET_RESIZE_FRACTION_BITS);
    }
}

void fleet_resize_bilinear(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_resample_t *op = record;
    const int16_t *rows = (const void *)(context->image + op->table);
    const int16_t *columns = rows + 2u * (size_t)op->out_h;
    int8_t *output = context->arena + op->output;
    for (uint32_t oy = 0; oy < op->out_h; oy++) {
        const place_t y = place_at(rows + 2u * (size_t)oy, (size_t)op->in_w * op->in_c);
        for (uint32_t ox = 0; ox < op->out_w; ox++) {
            const place_t x = place_at(columns + 2u * (size_t)ox, op->in_c);
            resize_pixel(context->arena + op->input, y, x, op->in_c, output);
            output += op->in_c;
        }
    }
}
