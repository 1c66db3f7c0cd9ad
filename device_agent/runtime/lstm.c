/* LSTM: what a unit keeps fades by one gate and grows by another; what it shows of it passes a third. */
#include "gates.h"

enum { INPUT_GATE, FORGET_GATE, CELL_GATE, OUTPUT_GATE };

/* The place of a cell of scale 2^power in the sigmoid table. */
static int32_t cell_place(int32_t cell, int32_t power)
{
    const int32_t right = -12 - power;
    return right <= 0 ? 3 * cell * (1 << -right) : (3 * cell + (1 << (right - 1))) >> right;
}

static int16_t next_cell(const fleet_gates_t *gates, uint32_t unit, int32_t cell)
{
    const fleet_op_gated_t *op = gates->op;
    const int32_t kept = fleet_halve(fleet_sigmoid_at(fleet_gate(gates, FORGET_GATE, unit)) * cell, 15);
    const int32_t fresh = fleet_sigmoid_at(fleet_gate(gates, INPUT_GATE, unit)) * fleet_tanh_at(fleet_gate(gates, CELL_GATE, unit));
    const int32_t sum = fleet_to_int16(fleet_to_int16(kept) + fleet_to_int16(fleet_halve(fresh, 30 + op->cell_power)));
    if (op->cell_clip == 0) {
        return (int16_t)sum;
    }
    return (int16_t)(sum < -op->cell_clip ? -op->cell_clip : sum > op->cell_clip ? op->cell_clip : sum);
}

static void step(const fleet_gates_t *gates, int8_t *output)
{
    const fleet_op_gated_t *op = gates->op;
    for (uint32_t unit = 0; unit < op->units; unit++) {
        gates->cells[unit] = next_cell(gates, unit, gates->cells[unit]);
        const int32_t shown = fleet_tanh_at(cell_place(gates->cells[unit], op->cell_power));
        output[unit] = fleet_gates_show(op, shown * fleet_sigmoid_at(fleet_gate(gates, OUTPUT_GATE, unit)));
    }
}

void fleet_lstm(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_gated_t *op = record;
    int8_t *output = context->arena + op->output;
    fleet_gates_t gates = fleet_gates(context, op, FLEET_GATES);
    for (uint32_t i = 0; i < op->steps; i++) {
        step(&gates, output);
        fleet_gates_next(&gates, output);
        output += op->units;
    }
}
