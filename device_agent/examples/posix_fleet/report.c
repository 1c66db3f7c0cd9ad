#define _POSIX_C_SOURCE 200809L

#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fleet_protocol.h"

/* Inside of a JSON string. Bytes above ASCII pass as they are: they are UTF-8 of the system's messages. */
static void put_text(const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\') {
            (void)putchar('\\');
        }
        if (byte < 0x20U) {
            (void)printf("\\u%04x", byte);
        } else {
            (void)putchar(byte);
        }
    }
}

static void begin(const reporter_t *who, const char *event)
{
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)printf("{\"t_ms\":%" PRIu64 ",\"event\":\"%s\",\"name\":\"", (uint64_t)now.tv_sec * 1000U + (uint64_t)now.tv_nsec / 1000000U,
                 event);
    put_text(who->name);
    (void)printf("\",\"device\":\"");
    put_text(who->device);
    (void)putchar('"');
}

static void end(void)
{
    (void)puts("}");
    (void)fflush(stdout);
}

void report(const reporter_t *who, const char *event)
{
    begin(who, event);
    end();
}

void report_text(const reporter_t *who, const char *event, const char *key, const char *text)
{
    begin(who, event);
    (void)printf(",\"%s\":\"", key);
    put_text(text);
    (void)putchar('"');
    end();
}

void report_number(const reporter_t *who, const char *event, const char *key, uint64_t number)
{
    begin(who, event);
    (void)printf(",\"%s\":%" PRIu64, key, number);
    end();
}

static void put_image(const uint8_t image[16])
{
    (void)printf(",\"image\":\"");
    for (size_t i = 0; i < 16U; i++) {
        (void)printf("%02x", image[i]);
    }
    (void)putchar('"');
}

static void report_slot(const reporter_t *who, unsigned index, const fleet_slot_info_t *before, const fleet_slot_info_t *after)
{
    begin(who, "slot");
    (void)printf(",\"slot\":%u,\"from\":\"%s\",\"to\":\"%s\",\"reason\":\"%s\",\"attempts\":%u,\"written_bytes\":%lu,\"image_bytes\":%lu",
                 index, fleet_slot_state_name(before->state), fleet_slot_state_name(after->state), fleet_reason_name(after->reason),
                 after->attempts, (unsigned long)after->written_bytes, (unsigned long)after->image_bytes);
    put_image(after->image);
    end();
}

static void report_answering(const reporter_t *who, const fleet_agent_info_t *after)
{
    begin(who, "answering");
    if (after->answering == FLEET_NO_SLOT) {
        (void)printf(",\"slot\":null");
    } else {
        (void)printf(",\"slot\":%u", after->answering);
        put_image(after->slots[after->answering].image);
    }
    end();
}

static bool slot_differs(const fleet_slot_info_t *a, const fleet_slot_info_t *b)
{
    return a->state != b->state || a->reason != b->reason || memcmp(a->image, b->image, sizeof a->image) != 0;
}

void report_changes(const reporter_t *who, const fleet_agent_info_t *before, const fleet_agent_info_t *after)
{
    if (before->connected != after->connected) {
        report(who, after->connected ? "connected" : "disconnected");
    }
    if (before->sequence != after->sequence) {
        report_number(who, "assignment", "sequence", after->sequence);
    }
    if (before->root != after->root) {
        report_number(who, "root", "number", after->root);
    }
    for (unsigned i = 0; i < 2U; i++) {
        if (slot_differs(&before->slots[i], &after->slots[i])) {
            report_slot(who, i, &before->slots[i], &after->slots[i]);
        }
    }
    if (before->answering != after->answering) {
        report_answering(who, after);
    }
    if (before->last_reason != after->last_reason) {
        report_text(who, "reason", "reason", fleet_reason_name(after->last_reason));
    }
}
