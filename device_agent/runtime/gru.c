/* GRU: a unit goes from what it was to something new as far as one gate says; another says how much the new depends on the old. */
#include "gates.h"

enum { UPDATE_GATE, RESET_GATE, HIDDEN_GATE };

static int resets_first(const fleet_op_gated_t *op)
{
    return (op->flags & FLEET_OP_FLAG_RESET_FIRST) != 0u;
}

static void reset_all(const fleet_gates_t *gates)
{
    for (uint32_t unit = 0; unit < gates->op->units; unit++) {
        const int32_t reset = fleet_sigmoid_at(fleet_gate(gates, RESET_GATE, unit));
        gates->reset[unit] = fleet_gates_show(gates->op, fleet_halve(reset * gates->cells[unit], 15));
    }
}

/* What the hidden gate reads of the hidden state, reset. */
static int32_t back_of(const fleet_gates_t *gates, uint32_t unit)
{
    if (resets_first(gates->op)) {
        return fleet_gate_over(gates, HIDDEN_GATE, unit, gates->reset);
    }
    const int32_t reset = fleet_sigmoid_at(fleet_gate(gates, RESET_GATE, unit));
    return fleet_halve(reset * fleet_gate_hidden(gates, HIDDEN_GATE, unit), 15);
}

/* The hidden state in Q15. */
static int16_t next_cell(const fleet_gates_t *gates, uint32_t unit, int32_t cell)
{
    const int32_t keep = fleet_sigmoid_at(fleet_gate(gates, UPDATE_GATE, unit));
    const int32_t back = back_of(gates, unit);
    const int32_t fresh = fleet_tanh_at(3 * fleet_to_int16(fleet_gate_input(gates, HIDDEN_GATE, unit) + back));
    return (int16_t)fleet_to_int16(fleet_halve(keep * cell, 15) + fleet_halve(((1 << 15) - keep) * fresh, 15));
}

void fleet_gru(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_gated_t *op = record;
    int8_t *output = context->arena + op->output;
    fleet_gates_t gates = fleet_gates(context, op, FLEET_GATES - 1u);
    for (uint32_t i = 0; i < op->steps; i++) {
        if (resets_first(op)) {
            reset_all(&gates);
        }
        for (uint32_t unit = 0; unit < op->units; unit++) {
            gates.cells[unit] = next_cell(&gates, unit, gates.cells[unit]);
            output[unit] = fleet_gates_show(op, gates.cells[unit]);
        }
        fleet_gates_next(&gates, output);
        output += op->units;
    }
}
