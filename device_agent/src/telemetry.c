#include "telemetry.h"

#include <string.h>

#include "compact.h"
#include "fields.h"
#include "ids.h"
#include "labels.h"

enum { BUCKETS = 4 * 32, CONFIDENCE_BUCKETS = 10, IMAGE_MEMBERS = 17 };

typedef char fleet_every_slot_has_counters[FLEET_COUNTER_IMAGES >= 2 * FLEET_MODELS_MAX ? 1 : -1];

/* A report of one image, every number at its longest: 7 bytes a bucket and a class, and what does not depend on knobs. */
#define REPORT_BYTES_MAX (199 + 2 * 7 * FLEET_LATENCY_BUCKETS + 7 * FLEET_CLASSES_MAX)
#define PAIR_BYTES_MAX 6U
typedef char fleet_message_holds_a_report[FLEET_MESSAGE_BYTES >= REPORT_BYTES_MAX ? 1 : -1];

static bool in_use_by_slot(const fleet_agent_t *agent, uint8_t index) {
    for (uint8_t c = 0; c < fleet_models(agent); c++) {
        const fleet_component_t *component = &agent->components[c];
        if (component->counters[0] == index || component->counters[1] == index) {
            return true;
        }
    }
    return false;
}

/* The next in turn that no slot uses: a slot that asks has none, and there is a place for each. */
static uint8_t place_to_take(fleet_agent_t *agent) {
    do {
        agent->counters_next = (uint8_t)((agent->counters_next + 1U) % FLEET_COUNTER_IMAGES);
    } while (in_use_by_slot(agent, agent->counters_next));
    return agent->counters_next;
}

uint8_t fleet_counters_of(fleet_agent_t *agent, const uint8_t image[16]) {
    for (uint8_t i = 0; i < FLEET_COUNTER_IMAGES; i++) {
        if (agent->counters[i].used && fleet_id_same(agent->counters[i].image, image)) {
            return i;
        }
    }
    const uint8_t index = place_to_take(agent);
    fleet_counters_t *counters = &agent->counters[index];
    if (FLEET_WITH_LABELS) {
        fleet_labels_forget(agent, index);
    }
    memset(counters, 0, sizeof *counters);
    fleet_id_copy(counters->image, image);
    counters->used = true;
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

/* A bucket that is new takes a free place; in a full histogram the nearest neighbour takes it. */
void fleet_histogram_add(fleet_histogram_t *histogram, uint32_t value_us) {
    const uint8_t bucket = bucket_of(value_us);
    uint32_t nearest = 0;
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < histogram->used; i++) {
        const uint32_t apart = distance(histogram->bucket[i], bucket);
        if (apart < least) {
            least = apart;
            nearest = i;
        }
    }
    if (least != 0 && histogram->used < FLEET_LATENCY_BUCKETS) {
        nearest = histogram->used++;
        histogram->bucket[nearest] = bucket;
    }
    histogram->count[nearest]++;
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

/* In the order of the buckets, not of their coming. */
static void put_histogram(fleet_cbor_out_t *out, uint32_t key, const fleet_histogram_t *histogram) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_array(out, 2U * histogram->used);
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        for (uint32_t i = 0; i < histogram->used; i++) {
            if (histogram->bucket[i] == bucket) {
                fleet_put_pair(out, bucket, histogram->count[i]);
            }
        }
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
            fleet_put_pair(out, i, counts[i]);
        }
    }
}

FLEET_APART static void put_image(fleet_cbor_out_t *out, const fleet_counters_t *counters) {
    static const fleet_field_t head[] = {
        FLEET_FIELD_STRING(FLEET_KEY_IMAGE_COUNTERS_IMAGE, fleet_counters_t, image),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_ROLE, fleet_counters_t, role),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_INFERENCES, fleet_counters_t, inferences),
    };
    static const fleet_field_t labelled[] = {
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_LABELLED, fleet_counters_t, labelled),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_CORRECT, fleet_counters_t, correct),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_FAULTS, fleet_counters_t, faults),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_ACTIVE_S, fleet_counters_t, active_s),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_SHADOW_INFERENCES, fleet_counters_t, shadow_inferences),
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_SHADOW_AGREE, fleet_counters_t, shadow_agree),
        {FLEET_KEY_IMAGE_COUNTERS_SHADOW_PAIRS, FLEET_FIELD_ARRAY, 4},
    };
    static const fleet_field_t rest[] = {
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_ARENA_HIGH_WATER_BYTES, fleet_counters_t, arena_bytes),
        FLEET_FIELD_VALUE(FLEET_KEY_IMAGE_COUNTERS_ENERGY_UJ, 0), /* unknown here */
        FLEET_FIELD(FLEET_KEY_IMAGE_COUNTERS_ACTIVATIONS, fleet_counters_t, activations),
    };
    fleet_cbor_put_map(out, IMAGE_MEMBERS);
    fleet_fields_put(out, counters, FLEET_FIELDS(head));
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_LATENCY_HISTOGRAM, &counters->latency);
    put_table(out, FLEET_KEY_IMAGE_COUNTERS_CONFIDENCE_HISTOGRAM, counters->confidence, CONFIDENCE_BUCKETS);
    put_table(out, FLEET_KEY_IMAGE_COUNTERS_PREDICTIONS, counters->predictions, FLEET_CLASSES_MAX);
    fleet_fields_put(out, counters, FLEET_FIELDS(labelled));
    for (uint32_t i = 0; i < 4; i++) {
        fleet_cbor_put_uint(out, counters->shadow_pairs[i]);
    }
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_LATENCY_HISTOGRAM, &counters->shadow_latency);
    fleet_fields_put(out, counters, FLEET_FIELDS(rest));
}

/* Behind the head of their array. In turn, as many as fit; the next report begins with the first that did not. Fewer than 24: the array's head is one byte. */
static void put_images(fleet_agent_t *agent, fleet_cbor_out_t *out) {
    uint8_t *head = out->data + out->used - 1U;
    const uint32_t first = agent->report_image;
    for (uint32_t i = 0; i < FLEET_COUNTER_IMAGES; i++) {
        const uint32_t index = (first + i) % FLEET_COUNTER_IMAGES;
        const uint32_t before = out->used;
        if (!agent->counters[index].used) {
            continue;
        }
        put_image(out, &agent->counters[index]);
        if (out->full) {
            out->full = false;
            out->used = before;
            agent->report_image = (uint8_t)index;
            return;
        }
        (*head)++;
    }
}

uint32_t fleet_telemetry_encode(fleet_agent_t *agent, fleet_cbor_out_t *out) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_TELEMETRY_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD(FLEET_KEY_TELEMETRY_BOOT, fleet_agent_t, device.boot),
        FLEET_FIELD(FLEET_KEY_TELEMETRY_REPORT, fleet_agent_t, report),
        FLEET_FIELD(FLEET_KEY_TELEMETRY_UPTIME_S, fleet_agent_t, uptime_s),
        {FLEET_KEY_TELEMETRY_IMAGES, FLEET_FIELD_ARRAY, 0},
    };
    const bool stack = agent->config.stack_low != NULL;
    fleet_cbor_put_map(out, 5U + stack);
    fleet_fields_put(out, agent, FLEET_FIELDS(fields));
    out->size -= PAIR_BYTES_MAX; /* for what follows them */
    put_images(agent, out);
    out->size += PAIR_BYTES_MAX;
    if (stack) {
        const uint32_t used = fleet_stack_used(agent->config.stack_low, agent->config.stack_bytes);
        fleet_put_pair(out, FLEET_KEY_TELEMETRY_STACK_HIGH_WATER_BYTES, used);
    }
    return out->used;
}
