/* GRU_F32: a unit goes from what it was to something new as far as one gate says. */
#include "gates.h"

enum { UPDATE_GATE, RESET_GATE, HIDDEN_GATE, GATES };

static int resets_first(const fleet_op_gated_f32_t *op)
{
    return (op->flags & FLEET_OP_FLAG_RESET_FIRST) != 0u;
}

static void reset_all(const fleet_f32_gates_t *gates)
{
    for (uint32_t unit = 0; unit < gates->op->units; unit++) {
        gates->reset[unit] = fleet_f32_sigmoid(fleet_f32_gate(gates, RESET_GATE, unit)) * gates->hidden[unit];
    }
}

/* What the hidden gate reads of the hidden state, reset. */
static float back_of(const fleet_f32_gates_t *gates, uint32_t unit)
{
    if (resets_first(gates->op)) {
        return fleet_f32_gate_hidden(gates, HIDDEN_GATE, unit, gates->reset);
    }
    const float reset = fleet_f32_sigmoid(fleet_f32_gate(gates, RESET_GATE, unit));
    return reset * fleet_f32_gate_hidden(gates, HIDDEN_GATE, unit, gates->hidden);
}

static float next_hidden(const fleet_f32_gates_t *gates, uint32_t unit)
{
    const float keep = fleet_f32_sigmoid(fleet_f32_gate(gates, UPDATE_GATE, unit));
    const float fresh = fleet_f32_tanh(fleet_f32_gate_input(gates, HIDDEN_GATE, unit) + back_of(gates, unit));
    const float kept = keep * gates->hidden[unit];
    return kept + (1.0f - keep) * fresh;
}

void fleet_f32_gru(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_gated_f32_t *op = record;
    float *output = fleet_f32_arena(context, op->output);
    fleet_f32_gates_t gates = fleet_f32_gates(context, op, GATES, 1u);
    for (uint32_t i = 0; i < op->steps; i++) {
        if (resets_first(op)) {
            reset_all(&gates);
        }
        for (uint32_t unit = 0; unit < op->units; unit++) {
            output[unit] = fleet_f32_clamp(next_hidden(&gates, unit), op->activation_min, op->activation_max);
        }
        fleet_f32_gates_next(&gates, output);
        output += op->units;
    }
}
