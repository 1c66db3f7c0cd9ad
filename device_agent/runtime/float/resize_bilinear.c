/* RESIZE_BILINEAR_F32: between two columns of both rows, then between the rows. */
#include "f32.h"

/* One axis of one output pixel: elements to the two neighbours, part of the second. */
typedef struct {
    size_t low;
    size_t high;
    float part;
} place_t;

static place_t place_at(const float *entry, size_t elements)
{
    place_t place;
    place.low = (size_t)(uint32_t)entry[0] * elements;
    place.part = entry[1];
    place.high = place.low + (entry[1] > 0.0f ? elements : 0u);
    return place;
}

static float blend(float low, float high, float part)
{
    return part > 0.0f ? low + (high - low) * part : low;
}

static void resize_pixel(const fleet_op_resize_f32_t *op, const float *input, place_t y, place_t x, float *output)
{
    const float *upper = input + y.low;
    const float *lower = input + y.high;
    for (uint32_t c = 0; c < op->in_c; c++) {
        const float top = blend(upper[x.low + c], upper[x.high + c], x.part);
        const float bottom = blend(lower[x.low + c], lower[x.high + c], x.part);
        output[c] = fleet_f32_clamp(blend(top, bottom, y.part), op->activation_min, op->activation_max);
    }
}

void fleet_f32_resize_bilinear(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_resize_f32_t *op = record;
    const float *rows = fleet_f32_image(context, op->table);
    const float *columns = rows + 2u * (size_t)op->out_h;
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t oy = 0; oy < op->out_h; oy++) {
        const place_t y = place_at(rows + 2u * (size_t)oy, (size_t)op->in_w * op->in_c);
        for (uint32_t ox = 0; ox < op->out_w; ox++) {
            const place_t x = place_at(columns + 2u * (size_t)ox, op->in_c);
            resize_pixel(op, fleet_f32_arena(context, op->input), y, x, output);
            output += op->in_c;
        }
    }
}
