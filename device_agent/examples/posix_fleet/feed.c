#include "feed.h"

#include <stdlib.h>
#include <string.h>

#include "seeded.h"

/* Fisher and Yates' shuffle. */
static void shuffle(feed_t *feed)
{
    for (uint32_t i = feed->dataset->count - 1U; i > 0U; i--) {
        uint32_t j = seeded_below(&feed->random, i + 1U);
        uint32_t kept = feed->order[i];
        feed->order[i] = feed->order[j];
        feed->order[j] = kept;
    }
    feed->position = 0;
}

bool feed_open(feed_t *feed, const dataset_t *dataset, double rate_hz, uint32_t label_delay_ms, uint64_t seed, uint64_t now_ms)
{
    memset(feed, 0, sizeof *feed);
    feed->dataset = dataset;
    feed->random = seed;
    feed->interval_ms = 1000.0 / rate_hz;
    feed->label_delay_ms = label_delay_ms;
    feed->order = malloc(sizeof *feed->order * dataset->count);
    if (feed->order == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < dataset->count; i++) {
        feed->order[i] = i;
    }
    shuffle(feed);
    feed->next_ms = now_ms + (uint64_t)(seeded_unit(&feed->random) * feed->interval_ms); /* devices do not march in step */
    return true;
}

void feed_close(feed_t *feed)
{
    free(feed->order);
    feed->order = NULL;
}

static void remember_label(feed_t *feed, uint32_t id, int32_t label, uint64_t now_ms)
{
    if (label < 0) {
        return;
    }
    if (feed->waiting == FLEET_LABEL_RING) { /* the agent has forgotten the oldest as well */
        feed->first = (feed->first + 1U) % FLEET_LABEL_RING;
        feed->waiting--;
    }
    feed_label_t *slot = &feed->labels[(feed->first + feed->waiting) % FLEET_LABEL_RING];
    *slot = (feed_label_t){now_ms + feed->label_delay_ms, id, (uint32_t)label};
    feed->waiting++;
}

static void give_labels(feed_t *feed, fleet_agent_t *agent, uint64_t now_ms)
{
    while (feed->waiting > 0U && feed->labels[feed->first].due_ms <= now_ms) {
        const feed_label_t *label = &feed->labels[feed->first];
        if (fleet_agent_label(agent, label->id, label->label) == FLEET_OK) {
            feed->labelled++;
        }
        feed->first = (feed->first + 1U) % FLEET_LABEL_RING;
        feed->waiting--;
    }
}

/* Further models see what model/0 sees; nobody waits for their answers. */
static void give_others(fleet_agent_t *agent, const fleet_input_t *input)
{
    for (uint8_t component = 1; component < FLEET_MODELS_MAX; component++) {
        fleet_answer_t answer;
        uint32_t id = 0;
        memset(&answer, 0, sizeof answer);
        (void)fleet_agent_infer(agent, component, input, &answer, &id);
    }
}

static void give_input(feed_t *feed, fleet_agent_t *agent, uint64_t now_ms)
{
    if (feed->position == feed->dataset->count) {
        shuffle(feed);
    }
    uint32_t sample = feed->order[feed->position++];
    bool real = feed->dataset->type == DATASET_FLOAT32;
    fleet_input_t input = {dataset_input(feed->dataset, sample), feed->dataset->input_bytes,
                           real ? FLEET_INPUT_FLOAT32 : FLEET_INPUT_RAW};
    fleet_answer_t answer;
    uint32_t id = 0;
    memset(&answer, 0, sizeof answer);
    feed->last_status = fleet_agent_infer(agent, 0, &input, &answer, &id);
    if (feed->last_status == FLEET_OK) {
        int32_t label = dataset_label(feed->dataset, sample);
        feed->inferences++;
        feed->correct += label >= 0 && answer.top == (uint32_t)label ? 1U : 0U;
        remember_label(feed, id, label, now_ms);
    }
    give_others(agent, &input);
}

uint64_t feed_step(feed_t *feed, fleet_agent_t *agent, uint64_t now_ms)
{
    give_labels(feed, agent, now_ms);
    if (now_ms >= feed->next_ms) {
        give_input(feed, agent, now_ms);
        /* From now on, not from when it was due: a stalled process does not catch up in a burst. */
        feed->next_ms = now_ms + 1U + (uint64_t)(feed->interval_ms * (0.5 + seeded_unit(&feed->random)));
    }
    uint64_t label_ms = feed->waiting > 0U ? feed->labels[feed->first].due_ms : UINT64_MAX;
    return label_ms < feed->next_ms ? label_ms : feed->next_ms;
}
