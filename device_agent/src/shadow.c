#include "shadow.h"

#include <string.h>

#include "compact.h"
#include "events.h"
#include "ids.h"
#include "labels.h"
#include "slots.h"
#include "telemetry.h"

static uint32_t microseconds(const fleet_agent_t *agent) {
    const fleet_clock_t *clock = agent->config.clock;
    return clock->now_us != NULL ? clock->now_us(clock->ctx) : 0U;
}

/* Inputs lie one after the other in `input`: codes as they are, or one float each. They are put where the tensors live in the arena. */
static fleet_status_t set_inputs(const fleet_agent_t *agent, const fleet_model_t *model, uint32_t count, const fleet_input_t *input) {
    const uint8_t *at = input->data;
    uint32_t left = input->bytes;
    for (uint32_t i = 0; i < count; i++) {
        fleet_tensor_t tensor;
        (void)fleet_model_input_info(model, i, &tensor);
        const uint32_t elements = fleet_tensor_elements(&tensor);
        const bool real = input->type == FLEET_INPUT_FLOAT32;
        const uint32_t bytes = real ? elements * (uint32_t)sizeof(float) : tensor.size_bytes;
        uint8_t *to = agent->config.arena + tensor.arena_offset;
        if (left < bytes) {
            return FLEET_ERR_SIZE;
        }
        if (real) {
            fleet_quantize(&tensor, (const float *)(const void *)at, elements, to);
        } else {
            memcpy(to, at, bytes);
        }
        at += bytes;
        left -= bytes;
    }
    return left == 0 ? FLEET_OK : FLEET_ERR_SIZE;
}

/* Behind an image's arena, as far as there is room: what a kernel changes that writes too far, or with too long a stride. */
typedef struct {
    uint8_t *at;
    uint32_t bytes;
} guard_t;

enum { GUARD_BYTES = 240, GUARD_BYTE = 0xA5 };

static guard_t raise_guard(const fleet_agent_t *agent, uint32_t arena_bytes) {
    const uint32_t room = agent->config.arena_bytes - arena_bytes;
    const guard_t guard = {agent->config.arena + arena_bytes, room < GUARD_BYTES ? room : GUARD_BYTES};
    memset(guard.at, GUARD_BYTE, guard.bytes);
    return guard;
}

static bool guard_stands(const guard_t *guard) {
    for (uint32_t i = 0; i < guard->bytes; i++) {
        if (guard->at[i] != GUARD_BYTE) {
            return false;
        }
    }
    return true;
}

static fleet_status_t invoke(const fleet_agent_t *agent, const fleet_model_t *model, uint32_t arena_bytes) {
    const guard_t guard = raise_guard(agent, arena_bytes);
    const fleet_status_t status = fleet_model_invoke(model, agent->config.arena, agent->config.arena_bytes);
    return status == FLEET_OK && !guard_stands(&guard) ? FLEET_ERR_OVERRUN : status;
}

fleet_status_t fleet_run_image(const fleet_agent_t *agent, const fleet_model_t *model, const fleet_input_t *input, fleet_run_t *run) {
    fleet_model_info_t info;
    fleet_tensor_t tensor;
    fleet_model_info(model, &info);
    if (info.arena_bytes > agent->config.arena_bytes) {
        return FLEET_ERR_ARENA;
    }
    const uint32_t began_us = microseconds(agent);
    fleet_status_t status = set_inputs(agent, model, info.input_count, input);
    if (status == FLEET_OK) {
        status = invoke(agent, model, info.arena_bytes);
    }
    if (status != FLEET_OK) {
        return status;
    }
    (void)fleet_model_output_info(model, 0, &tensor);
    run->output = fleet_model_output(model, 0, agent->config.arena);
    run->output_bytes = tensor.size_bytes;
    run->arena_bytes = info.arena_bytes;
    run->latency_us = microseconds(agent) - began_us;
    const fleet_top1_t top = fleet_top1(&tensor, run->output);
    run->top = top.index;
    run->confidence = top.confidence;
    return FLEET_OK;
}

static void tell_fault(fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot, fleet_reason_t reason, uint32_t detail) {
    fleet_event_t *event = fleet_event(agent, component, FLEET_EVENT_KIND_FAULT, reason);
    fleet_event_image(event, &component->record.slots[slot]);
    event->detail = detail;
    event->members |= FLEET_EVENT_HAS(DETAIL);
    agent->counters[component->counters[slot]].faults++;
}

#if FLEET_WITH_SHADOW

typedef struct {
    bool runs;
    bool counts;
} turn_t;

static bool keeps_state(const fleet_model_t *model) {
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    return info.state_bytes != 0;
}

/* Whether the candidate runs on this inference and counts. Runs of contiguous inferences, then a pause that keeps the duty; without
 * a pause the run goes on and its warm-up is over for good. */
static turn_t next_turn(fleet_component_t *component, const fleet_model_t *model) {
    const bool stream = keeps_state(model);
    const uint32_t warm_up = stream ? FLEET_SHADOW_WARM_UP : 0U;
    const uint32_t run = warm_up + (stream ? FLEET_SHADOW_RUN : 1U);
    const uint32_t cycle = (run * 100U + FLEET_SHADOW_DUTY_PCT - 1U) / FLEET_SHADOW_DUTY_PCT;
    const uint32_t at = component->shadow_position;
    if (at == 0) {
        (void)fleet_model_reset_state(model);
    }
    component->shadow_position = at + 1U < cycle ? at + 1U : cycle == run ? warm_up : 0U;
    return (turn_t){at < run, at >= warm_up && at < run};
}

uint8_t fleet_shadow_run(fleet_agent_t *agent, fleet_component_t *component, const fleet_input_t *input, uint32_t active_top,
                         uint32_t *shadow_top) {
    const uint8_t slot = fleet_slots_candidate(component);
    fleet_run_t run;
    if (slot == FLEET_NO_SLOT || component->record.slots[slot].state != FLEET_SLOT_STATE_SHADOW || !component->usable[slot] ||
        !component->golden[slot]) {
        return FLEET_IMAGES_NONE;
    }
    const turn_t turn = next_turn(component, &component->models[slot]);
    if (!turn.runs) {
        return FLEET_IMAGES_NONE;
    }
    const fleet_status_t status = fleet_run_image(agent, &component->models[slot], input, &run);
    if (status != FLEET_OK) {
        tell_fault(agent, component, slot, FLEET_REASON_INFERENCE_FAILED, (uint32_t)-(int32_t)status);
        (void)fleet_slots_change(agent, component, slot, FLEET_FOR(FLEET_REJECT, FLEET_REASON_INFERENCE_FAILED));
        return FLEET_IMAGES_NONE;
    }
    if (!turn.counts) {
        return FLEET_IMAGES_NONE;
    }
    const uint8_t image = component->counters[slot];
    fleet_counters_t *counters = &agent->counters[image];
    counters->shadow_inferences++;
    counters->shadow_agree += run.top == active_top ? 1U : 0U;
    if (run.latency_us > 0) {
        fleet_histogram_add(&counters->shadow_latency, run.latency_us);
    }
    *shadow_top = run.top;
    return image;
}

#endif

/* A TESTING image that fails, or whose answer has no room, is reverted and the fallback answers the same input. */
static fleet_status_t run_answering(fleet_agent_t *agent, fleet_component_t *component, const fleet_input_t *input,
                                    const fleet_answer_t *answer, fleet_run_t *run) {
    fleet_status_t status = FLEET_ERR_NO_MODEL;
    for (uint32_t round = 0; round < 2 && component->answering != FLEET_NO_SLOT; round++) {
        const uint8_t slot = component->answering;
        status = fleet_run_image(agent, &component->models[slot], input, run);
        if (status == FLEET_OK && answer->output != NULL && answer->output_bytes < run->output_bytes) {
            status = FLEET_ERR_SIZE;
        }
        if (status == FLEET_OK) {
            return FLEET_OK;
        }
        const bool testing = component->record.slots[slot].state == FLEET_SLOT_STATE_TESTING;
        if (status == FLEET_ERR_SIZE && !testing) {
            return status; /* the caller's input or room, not the image */
        }
        tell_fault(agent, component, slot, FLEET_REASON_INFERENCE_FAILED, (uint32_t)-(int32_t)status);
        if (!testing || !fleet_slots_revert(agent, component, FLEET_REASON_INFERENCE_FAILED)) {
            return status;
        }
    }
    return component->answering == FLEET_NO_SLOT ? FLEET_ERR_NO_MODEL : status;
}

static void check_budget(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot, uint32_t latency_us) {
    const fleet_slot_record_t *record = &component->record.slots[slot];
    if (record->state != FLEET_SLOT_STATE_TESTING) {
        return;
    }
    if (record->latency_budget_us == 0 || latency_us <= record->latency_budget_us) {
        component->test_inferences++;
        return;
    }
    tell_fault(agent, component, slot, FLEET_REASON_BUDGET_EXCEEDED, latency_us);
    component->budget_faults++;
    if (component->budget_faults >= FLEET_BUDGET_FAULTS_MAX) {
        (void)fleet_slots_revert(agent, component, FLEET_REASON_BUDGET_EXCEEDED);
    }
}

FLEET_APART static void fill_answer(const fleet_component_t *component, uint8_t slot, const fleet_run_t *run, fleet_answer_t *answer) {
    if (answer->output != NULL) {
        memcpy(answer->output, run->output, run->output_bytes);
    }
    answer->output_bytes = run->output_bytes;
    answer->top = run->top;
    answer->confidence = run->confidence;
    answer->latency_us = run->latency_us;
    fleet_id_copy(answer->image, component->record.slots[slot].digest);
}

fleet_status_t fleet_agent_infer(fleet_agent_t *agent, uint8_t index, const fleet_input_t *input, fleet_answer_t *answer,
                                 uint32_t *id) {
    if (agent == NULL || input == NULL || input->data == NULL || answer == NULL || id == NULL || index >= fleet_models(agent)) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_component_t *component = fleet_component(agent, index);
    fleet_run_t run;
    const fleet_status_t status = run_answering(agent, component, input, answer, &run);
    if (status != FLEET_OK) {
        return status;
    }
    const uint8_t slot = component->answering;
    const uint8_t image = component->counters[slot];
    fill_answer(component, slot, &run, answer);
    fleet_counters_answer(&agent->counters[image], run.top, run.confidence, run.latency_us);
    agent->counters[image].arena_bytes = run.arena_bytes;
    if (agent->config.answered != NULL) {
        agent->config.answered(agent->config.answered_ctx, index, answer);
    }
    uint8_t shadow_image = FLEET_IMAGES_NONE;
    uint32_t shadow_top = 0;
    if (FLEET_WITH_SHADOW) {
        shadow_image = fleet_shadow_run(agent, component, input, run.top, &shadow_top);
    }
    *id = FLEET_WITH_LABELS ? fleet_labels_add(agent, image, run.top, shadow_image, shadow_top) : 0U;
    check_budget(agent, component, slot, run.latency_us);
    return FLEET_OK;
}

fleet_status_t fleet_agent_reset_stream(fleet_agent_t *agent, uint8_t index) {
    if (agent == NULL || index >= fleet_models(agent)) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_component_t *component = fleet_component(agent, index);
    component->shadow_position = 0;
    if (component->answering != FLEET_NO_SLOT) {
        (void)fleet_model_reset_state(&component->models[component->answering]);
    }
    return FLEET_OK;
}
