#include "telemetry.h"

#include <string.h>

#include "cbor.h"
#include "labels.h"

enum { CONFIDENCE_BUCKETS = 10, IMAGE_MEMBERS = 17 };

static bool in_use_by_slot(const fleet_agent_t *agent, uint8_t index) {
    for (uint8_t c = 0; c < agent->config.components; c++) {
        const fleet_component_t *component = &agent->components[c];
        if (component->counters[0] == index || component->counters[1] == index) {
            return true;
        }
    }
    return false;
}

/* Free first, else the least recently touched that no slot uses: there are more places than slots. */
static uint8_t place_to_take(const fleet_agent_t *agent) {
    uint8_t best = 0;
    bool found = false;
    for (uint8_t i = 0; i < FLEET_COUNTER_IMAGES; i++) {
        const fleet_counters_t *counters = &agent->counters[i];
        if (!counters->used) {
            return i;
        }
        if (!in_use_by_slot(agent, i) && (!found || counters->touched < agent->counters[best].touched)) {
            best = i;
            found = true;
        }
    }
    return best;
}

uint8_t fleet_counters_of(fleet_agent_t *agent, const uint8_t image[16]) {
    uint8_t index = FLEET_IMAGES_NONE;
    for (uint8_t i = 0; i < FLEET_COUNTER_IMAGES; i++) {
        if (agent->counters[i].used && memcmp(agent->counters[i].image, image, FLEET_ID_BYTES) == 0) {
            index = i;
        }
    }
    if (index == FLEET_IMAGES_NONE) {
        index = place_to_take(agent);
        fleet_labels_forget(agent, index);
        memset(&agent->counters[index], 0, sizeof agent->counters[index]);
        memcpy(agent->counters[index].image, image, FLEET_ID_BYTES);
        agent->counters[index].used = true;
    }
    agent->counters[index].touched = ++agent->touch;
    return index;
}

/* 4 * floor(log2 us) + next two bits, from 1 us. */
static uint8_t bucket_of(uint32_t value_us) {
    const uint32_t value = value_us > 0 ? value_us : 1U;
    uint32_t octave = 31;
    while ((value >> octave) == 0) {
        octave--;
    }
    const uint32_t two_bits = octave >= 2 ? value >> (octave - 2U) : value << (2U - octave);
    return (uint8_t)(4U * octave + (two_bits & 3U));
}

static uint32_t distance(uint8_t a, uint8_t b) {
    return a > b ? (uint32_t)a - b : (uint32_t)b - a;
}

static void insert_bucket(fleet_histogram_t *histogram, uint32_t at, uint8_t bucket) {
    for (uint32_t i = histogram->used; i > at; i--) {
        histogram->bucket[i] = histogram->bucket[i - 1U];
        histogram->count[i] = histogram->count[i - 1U];
    }
    histogram->bucket[at] = bucket;
    histogram->count[at] = 0;
    histogram->used++;
}

void fleet_histogram_add(fleet_histogram_t *histogram, uint32_t value_us) {
    const uint8_t bucket = bucket_of(value_us);
    uint32_t at = 0;
    while (at < histogram->used && histogram->bucket[at] < bucket) {
        at++;
    }
    const bool present = at < histogram->used && histogram->bucket[at] == bucket;
    if (!present && histogram->used < FLEET_LATENCY_BUCKETS) {
        insert_bucket(histogram, at, bucket);
    } else if (!present) { /* full: the nearest neighbour takes it */
        at = at == histogram->used ? at - 1U : at;
        if (at > 0 && distance(histogram->bucket[at - 1U], bucket) < distance(histogram->bucket[at], bucket)) {
            at--;
        }
    }
    histogram->count[at]++;
}

void fleet_counters_answer(fleet_counters_t *counters, uint32_t top, float confidence, uint32_t latency_us) {
    const uint32_t tenth = confidence >= 1.0F ? CONFIDENCE_BUCKETS - 1U : (uint32_t)(confidence * CONFIDENCE_BUCKETS);
    counters->inferences++;
    counters->confidence[tenth]++;
    if (top < FLEET_CLASSES_MAX) {
        counters->predictions[top]++;
    }
    if (latency_us > 0) {
        fleet_histogram_add(&counters->latency, latency_us);
    }
}

static void put_pair(fleet_cbor_out_t *out, uint32_t key, uint64_t value) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_uint(out, value);
}

static void put_histogram(fleet_cbor_out_t *out, uint32_t key, const fleet_histogram_t *histogram) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_array(out, 2U * histogram->used);
    for (uint32_t i = 0; i < histogram->used; i++) {
        put_pair(out, histogram->bucket[i], histogram->count[i]);
    }
}

/* A dense table as sparse pairs. */
static void put_table(fleet_cbor_out_t *out, uint32_t key, const uint32_t *counts, uint32_t size) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < size; i++) {
        used += counts[i] > 0;
    }
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_array(out, 2U * used);
    for (uint32_t i = 0; i < size; i++) {
        if (counts[i] > 0) {
            put_pair(out, i, counts[i]);
        }
    }
}

static void put_image(fleet_cbor_out_t *out, const fleet_counters_t *counters) {
    fleet_cbor_put_map(out, IMAGE_MEMBERS);
    fleet_cbor_put_uint(out, FLEET_KEY_IMAGE_COUNTERS_IMAGE);
    fleet_cbor_put_bytes(out, counters->image, FLEET_ID_BYTES);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ROLE, counters->role);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_INFERENCES, counters->inferences);
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_LATENCY_HISTOGRAM, &counters->latency);
    put_table(out, FLEET_KEY_IMAGE_COUNTERS_CONFIDENCE_HISTOGRAM, counters->confidence, CONFIDENCE_BUCKETS);
    put_table(out, FLEET_KEY_IMAGE_COUNTERS_PREDICTIONS, counters->predictions, FLEET_CLASSES_MAX);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_LABELLED, counters->labelled);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_CORRECT, counters->correct);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_FAULTS, counters->faults);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ACTIVE_S, counters->active_ms / 1000U);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_INFERENCES, counters->shadow_inferences);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_AGREE, counters->shadow_agree);
    fleet_cbor_put_uint(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_PAIRS);
    fleet_cbor_put_array(out, 4);
    for (uint32_t i = 0; i < 4; i++) {
        fleet_cbor_put_uint(out, counters->shadow_pairs[i]);
    }
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_LATENCY_HISTOGRAM, &counters->shadow_latency);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ARENA_HIGH_WATER_BYTES, counters->arena_bytes);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ENERGY_UJ, 0);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ACTIVATIONS, counters->activations);
}

/* Slots' images first, then the others by recency. */
static uint32_t order_images(const fleet_agent_t *agent, uint8_t order[FLEET_COUNTER_IMAGES]) {
    uint32_t count = 0;
    bool taken[FLEET_COUNTER_IMAGES] = {false};
    for (uint32_t round = 0; round < FLEET_COUNTER_IMAGES; round++) {
        uint8_t best = FLEET_IMAGES_NONE;
        for (uint8_t i = 0; i < FLEET_COUNTER_IMAGES; i++) {
            const bool better = best == FLEET_IMAGES_NONE || (in_use_by_slot(agent, i) && !in_use_by_slot(agent, best)) ||
                                (in_use_by_slot(agent, i) == in_use_by_slot(agent, best) &&
                                 agent->counters[i].touched > agent->counters[best].touched);
            if (agent->counters[i].used && !taken[i] && better) {
                best = i;
            }
        }
        if (best != FLEET_IMAGES_NONE) {
            taken[best] = true;
            order[count++] = best;
        }
    }
    return count;
}

static void set_roles(fleet_agent_t *agent) {
    for (uint8_t c = 0; c < agent->config.components; c++) {
        const fleet_component_t *component = &agent->components[c];
        for (uint8_t s = 0; s < 2; s++) {
            if (component->counters[s] != FLEET_IMAGES_NONE) {
                agent->counters[component->counters[s]].role = component->record.slots[s].state;
            }
        }
    }
}

static bool encode(fleet_agent_t *agent, const uint8_t *order, uint32_t images, uint32_t *bytes) {
    fleet_cbor_out_t out = fleet_cbor_writer(agent->message, sizeof agent->message);
    const bool stack = agent->config.stack_low != NULL;
    fleet_cbor_put_map(&out, stack ? 6 : 5);
    put_pair(&out, FLEET_KEY_TELEMETRY_PROTOCOL, FLEET_PROTOCOL_VERSION);
    put_pair(&out, FLEET_KEY_TELEMETRY_BOOT, agent->device.boot);
    put_pair(&out, FLEET_KEY_TELEMETRY_REPORT, agent->report);
    put_pair(&out, FLEET_KEY_TELEMETRY_UPTIME_S, (agent->now_ms - agent->began_ms) / 1000U);
    fleet_cbor_put_uint(&out, FLEET_KEY_TELEMETRY_IMAGES);
    fleet_cbor_put_array(&out, images);
    for (uint32_t i = 0; i < images; i++) {
        put_image(&out, &agent->counters[order[i]]);
    }
    if (stack) {
        const uint32_t used = fleet_stack_used(agent->config.stack_low, agent->config.stack_bytes);
        put_pair(&out, FLEET_KEY_TELEMETRY_STACK_HIGH_WATER_BYTES, used);
    }
    *bytes = out.used;
    return !out.full;
}

uint32_t fleet_telemetry_encode(fleet_agent_t *agent) {
    uint8_t order[FLEET_COUNTER_IMAGES];
    uint32_t bytes = 0;
    set_roles(agent);
    uint32_t images = order_images(agent, order);
    while (!encode(agent, order, images, &bytes)) {
        if (images == 0) {
            return 0;
        }
        images--;
    }
    return bytes;
}
