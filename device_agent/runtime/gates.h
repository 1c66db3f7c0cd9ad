/* What recurrent kernels share: sums over the input and over the hidden state, in Q3.12 (compiler/NUMERICS.md section 2). */
#ifndef FLEET_GATES_H
#define FLEET_GATES_H

#include "fixed_point.h"
#include "internal.h"
#include "sigmoid.h"

#include <string.h>

/* Parts of the table; `x` is the input of one step. */
typedef struct {
    const fleet_op_gated_t *op;
    const int32_t *biases;
    const int8_t *weights;
    const int8_t *recurrent;
    const int8_t *x;
    int8_t *hidden;
    int16_t *cells;
    uint32_t rows; /* of all gates */
    int8_t *reset; /* scratch for hidden states that are reset before their product */
} fleet_gates_t;

static inline int32_t fleet_to_int16(int32_t x)
{
    return x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x;
}

/* Without a place in the state every inference begins anew, in scratch: at zero, or at `start` in the table. */
static inline void fleet_gates_begin(const fleet_kernel_context_t *context, fleet_gates_t *gates, const int8_t *start)
{
    const fleet_op_gated_t *op = gates->op;
    const uint32_t cell_bytes = op->units * (uint32_t)sizeof(*gates->cells);
    if (op->hidden != FLEET_NO_OFFSET) {
        gates->hidden = (int8_t *)(context->state + op->hidden);
        gates->cells = (void *)(context->state + op->cell);
        gates->reset = (op->flags & FLEET_OP_FLAG_RESET_FIRST) != 0u ? context->arena + op->scratch : 0;
        return;
    }
    gates->cells = (void *)(context->arena + op->scratch);
    gates->hidden = (int8_t *)(gates->cells + op->units);
    gates->reset = gates->hidden + op->units;
    if (start != 0) {
        memcpy(gates->cells, start, cell_bytes + op->units);
        return;
    }
    memset(gates->cells, 0, cell_bytes);
    memset(gates->hidden, op->output_zero_point, op->units);
}

static inline fleet_gates_t fleet_gates(const fleet_kernel_context_t *context, const fleet_op_gated_t *op, uint32_t count)
{
    const uint32_t rows = count * op->units;
    const int32_t *biases = (const void *)(context->image + op->table);
    const int8_t *start = (const int8_t *)(const void *)(biases + 2u * (size_t)rows);
    const int given = (op->flags & FLEET_OP_FLAG_GIVEN_START) != 0u;
    const int8_t *weights = given ? start + 3u * (size_t)op->units : start;
    const int8_t *recurrent = weights + (size_t)rows * op->features;
    fleet_gates_t gates = {op, biases, weights, recurrent, context->arena + op->input, 0, 0, rows, 0};
    fleet_gates_begin(context, &gates, given ? start : 0);
    return gates;
}

/* Sum of one gate of one unit over the input. */
static inline int32_t fleet_gate_input(const fleet_gates_t *gates, uint32_t gate, uint32_t unit)
{
    const fleet_op_gated_t *op = gates->op;
    const uint32_t row = gate * op->units + unit;
    const int32_t sum = fleet_dot(gates->biases[row], gates->weights + (size_t)row * op->features, gates->x, op->features);
    return fleet_to_int16(fleet_rescale(sum, op->gate_multipliers[gate], op->gate_shifts[gate]));
}

/* Sum of one gate of one unit over `hidden`. */
static inline int32_t fleet_gate_over(const fleet_gates_t *gates, uint32_t gate, uint32_t unit, const int8_t *hidden)
{
    const fleet_op_gated_t *op = gates->op;
    const uint32_t row = gate * op->units + unit;
    const int32_t bias = gates->biases[gates->rows + row];
    const int32_t sum = fleet_dot(bias, gates->recurrent + (size_t)row * op->units, hidden, op->units);
    return fleet_to_int16(fleet_rescale(sum, op->gate_multipliers[FLEET_GATES + gate], op->gate_shifts[FLEET_GATES + gate]));
}

static inline int32_t fleet_gate_hidden(const fleet_gates_t *gates, uint32_t gate, uint32_t unit)
{
    return fleet_gate_over(gates, gate, unit, gates->hidden);
}

/* Where the sigmoid table is read for a gate. */
static inline int32_t fleet_gate(const fleet_gates_t *gates, uint32_t gate, uint32_t unit)
{
    return 3 * fleet_to_int16(fleet_gate_input(gates, gate, unit) + fleet_gate_hidden(gates, gate, unit));
}

/* A step's output is its hidden state, kept only when every gate has read the one before. */
static inline void fleet_gates_next(fleet_gates_t *gates, const int8_t *output)
{
    memcpy(gates->hidden, output, gates->op->units);
    gates->x += gates->op->features;
}

static inline int8_t fleet_gates_show(const fleet_op_gated_t *op, int32_t y)
{
    return fleet_to_int8(fleet_rescale(y, op->output_multiplier, op->output_shift), op->output_zero_point,
                         op->activation_min, op->activation_max);
}

/* x * 2^-(places): the multiplier of a power of two rounds twice, as any other. */
static inline int32_t fleet_halve(int32_t x, int32_t places)
{
    return fleet_rescale(x, INT32_C(1) << 30, 1 - places);
}

#endif
