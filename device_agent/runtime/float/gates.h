/* What recurrent float32 kernels share: sums over the input and over the hidden state, begun at their biases. */
#ifndef FLEET_F32_GATES_H
#define FLEET_F32_GATES_H

#include "f32.h"
#include "functions.h"

#include <string.h>

/* Parts of the table; `x` is the input of one step. */
typedef struct {
    const fleet_op_gated_f32_t *op;
    const float *biases;
    const float *weights;
    const float *recurrent;
    const float *x;
    float *hidden;
    float *cells; /* of an LSTM */
    float *reset; /* scratch for hidden states that are reset before their product */
    uint32_t rows; /* of all gates */
} fleet_f32_gates_t;

/* Where hidden state and cells lie: in the state, or in scratch, where every inference begins anew. */
static inline void fleet_f32_gates_begin(const fleet_kernel_context_t *context, fleet_f32_gates_t *gates, const float *start,
                                         uint32_t parts)
{
    const fleet_op_gated_f32_t *op = gates->op;
    float *scratch = op->scratch == FLEET_NO_OFFSET ? 0 : fleet_f32_arena(context, op->scratch);
    if (op->hidden != FLEET_NO_OFFSET) {
        gates->hidden = (float *)(void *)(context->state + op->hidden);
        gates->cells = parts == 2u ? (float *)(void *)(context->state + op->cell) : 0;
        gates->reset = scratch;
        return;
    }
    gates->hidden = scratch + (size_t)(parts - 1u) * op->units; /* behind the cells */
    gates->cells = scratch;
    gates->reset = scratch + (size_t)parts * op->units;
    for (uint32_t i = 0; i < parts * op->units; i++) {
        scratch[i] = start == 0 ? 0.0f : start[i];
    }
}

static inline fleet_f32_gates_t fleet_f32_gates(const fleet_kernel_context_t *context, const fleet_op_gated_f32_t *op,
                                                uint32_t count, uint32_t parts)
{
    const uint32_t rows = count * op->units;
    const float *biases = fleet_f32_image(context, op->table);
    const float *start = biases + 2u * (size_t)rows;
    const int given = (op->flags & FLEET_OP_FLAG_GIVEN_START) != 0u;
    const float *weights = given ? start + (size_t)parts * op->units : start;
    const float *recurrent = weights + (size_t)rows * op->features;
    fleet_f32_gates_t gates = {op, biases, weights, recurrent, fleet_f32_arena(context, op->input), 0, 0, 0, rows};
    fleet_f32_gates_begin(context, &gates, given ? start : 0, parts);
    return gates;
}

static inline float fleet_f32_gate_input(const fleet_f32_gates_t *gates, uint32_t gate, uint32_t unit)
{
    const uint32_t row = gate * gates->op->units + unit;
    return fleet_f32_dot(gates->biases[row], gates->weights + (size_t)row * gates->op->features, gates->x, gates->op->features);
}

static inline float fleet_f32_gate_hidden(const fleet_f32_gates_t *gates, uint32_t gate, uint32_t unit, const float *hidden)
{
    const uint32_t row = gate * gates->op->units + unit;
    const float bias = gates->biases[gates->rows + row];
    return fleet_f32_dot(bias, gates->recurrent + (size_t)row * gates->op->units, hidden, gates->op->units);
}

static inline float fleet_f32_gate(const fleet_f32_gates_t *gates, uint32_t gate, uint32_t unit)
{
    return fleet_f32_gate_input(gates, gate, unit) + fleet_f32_gate_hidden(gates, gate, unit, gates->hidden);
}

/* A step's output is its hidden state, kept only when every gate has read the one before. */
static inline void fleet_f32_gates_next(fleet_f32_gates_t *gates, const float *output)
{
    memcpy(gates->hidden, output, gates->op->units * sizeof(*output));
    gates->x += gates->op->features;
}

#endif
