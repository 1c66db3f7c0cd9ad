/*
 * The whole agent on an emulated Cortex-M4 (mps2-an386), with the board's watchdog and a fault handler that resets the core. Flash is
 * RAM that a reset leaves alone, filled from flash.bin at power on; there is no broker. The softmax of the image at
 * case.bin's offset misbehaves in live inferences: it hangs, or it writes where nothing is. Lines on the console tell what happens.
 */
#include <string.h>

#include "bench.h"
#include "fault.h"
#include "fleet_agent.h"

#define PERIOD_TICKS 500000u /* 20 ms: 20 million instructions under -icount shift=0; nothing here takes a tenth of it */
#define UNLOCK 0x1ACCE551u
#define RESET_REQUEST 0x05FA0004u

enum { FLASH_BYTES = 65536, ROOT_BYTES = 512, INPUT_BYTES = 256, INPUTS_MAX = 64, POWERED = 0x504F5745 };

/* Cortex-M System Design Kit, APB watchdog; its interrupt is the core's NMI. The second time it runs out it resets. */
typedef struct {
    volatile uint32_t load, value, control, clear;
    uint32_t unused[764];
    volatile uint32_t lock;
} watchdog_t;
#define WATCHDOG ((watchdog_t *)0x40008000u)
#define AIRCR (*(volatile uint32_t *)0xE000ED0Cu)

/* What the host asks for: case.bin. */
typedef struct {
    uint32_t kind, image_offset, flash_bytes, erase_bytes, program_bytes, slot_bytes, root_bytes, inputs, input_bytes;
    uint8_t root[ROOT_BYTES];
    uint8_t input[INPUTS_MAX][INPUT_BYTES];
} case_t;

/* Outside of what start-up clears: a reset leaves it alone. */
static struct {
    uint8_t flash[FLASH_BYTES];
    case_t given;
    uint32_t powered;
    uint32_t answered;
} kept __attribute__((section(".psram"), aligned(16)));

static fleet_agent_t agent;
static uint8_t arena[4096] __attribute__((aligned(16)));

fault_t fault_now;

static void print_number(uint32_t value) {
    char text[11];
    char *at = text + sizeof text - 1;
    *at = 0;
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    fleet_host_print(" ");
    fleet_host_print(at);
}

/* ---- watchdog and faults ---- */

static void watchdog_start(void) {
    WATCHDOG->lock = UNLOCK;
    WATCHDOG->load = PERIOD_TICKS;
    WATCHDOG->control = 3; /* interrupt and reset */
}

static void watchdog_feed(void) {
    WATCHDOG->load = PERIOD_TICKS;
}

/* Fed by nobody, it runs out once more and resets the core. */
static void on_watchdog(void) {
    fleet_host_print("watchdog\n");
    for (;;) {
    }
}

static void on_fault(void) {
    fleet_host_print("fault\n");
    AIRCR = RESET_REQUEST;
    for (;;) {
    }
}

/* ---- ports ---- */

static fleet_status_t flash_read(void *ctx, uint32_t offset, void *data, uint32_t bytes) {
    (void)ctx;
    memcpy(data, kept.flash + offset, bytes);
    return FLEET_OK;
}

static fleet_status_t flash_prog(void *ctx, uint32_t offset, const void *data, uint32_t bytes) {
    (void)ctx;
    for (uint32_t i = 0; i < bytes; i++) {
        kept.flash[offset + i] &= ((const uint8_t *)data)[i];
    }
    return FLEET_OK;
}

static fleet_status_t flash_erase(void *ctx, uint32_t offset) {
    (void)ctx;
    memset(kept.flash + offset, 0xFF, kept.given.erase_bytes);
    return FLEET_OK;
}

static int flash_busy(void *ctx) {
    (void)ctx;
    return 0;
}

static int no_broker(void *ctx) {
    (void)ctx;
    return FLEET_ERR_NETWORK;
}

static void close_nothing(void *ctx) {
    (void)ctx;
}

static fleet_status_t random_bytes(void *ctx, void *data, size_t bytes) {
    (void)ctx;
    memset(data, 4, bytes); /* nonces and jitter, which matter to nobody here */
    return FLEET_OK;
}

/* The host signed the root; checking signatures is another test's subject. */
static bool trust(void *ctx, const uint8_t key[32], const uint8_t *message, size_t bytes, const uint8_t signature[64]) {
    (void)ctx, (void)key, (void)message, (void)bytes, (void)signature;
    return true;
}

/* ---- the product ---- */

static void answered(void *ctx, uint8_t component, const fleet_answer_t *answer) {
    (void)ctx, (void)component;
    fleet_host_print("answer");
    print_number(kept.answered++);
    print_number(answer->top);
    fleet_host_print("\n");
}

static void stop(const char *why, fleet_status_t status) {
    fleet_host_print(why);
    print_number((uint32_t)-(int32_t)status);
    fleet_host_print("\n");
    fleet_host_exit(1);
}

static void power_on(void) {
    (void)fleet_host_read(fleet_host_open("flash.bin", FLEET_HOST_READ), kept.flash, sizeof kept.flash);
    (void)fleet_host_read(fleet_host_open("case.bin", FLEET_HOST_READ), &kept.given, sizeof kept.given);
    kept.answered = 0;
    kept.powered = POWERED;
}

static void infer(const uint8_t *data) {
    const fleet_input_t input = {data, kept.given.input_bytes, FLEET_INPUT_RAW};
    fleet_answer_t answer = {0};
    uint32_t id;
    fault_now = (fault_t){kept.given.kind, kept.flash + kept.given.image_offset};
    const fleet_status_t status = fleet_agent_infer(&agent, 0, &input, &answer, &id);
    fault_now = (fault_t){FAULT_NONE, NULL};
    if (status != FLEET_OK) {
        stop("infer", status);
    }
}

static void print_slots(void) {
    fleet_agent_info_t info;
    (void)fleet_agent_info(&agent, 0, &info);
    fleet_host_print("slots");
    for (uint32_t s = 0; s < 2; s++) {
        print_number(info.slots[s].state);
        print_number(info.slots[s].reason);
    }
    fleet_host_print("\n");
}

int main(void) {
    if (kept.powered != POWERED) {
        power_on();
    }
    const case_t *given = &kept.given;
    const fleet_flash_t flash = {flash_read, flash_prog, flash_erase, flash_busy, kept.flash, given->flash_bytes, given->erase_bytes, given->program_bytes, NULL};
    const fleet_transport_t transport = {.connect = no_broker, .close = close_nothing};
    const fleet_crypto_t crypto = {.sha256_init = sha256_init, .sha256_update = sha256_update, .sha256_final = sha256_final, .ed25519_verify = trust, .random = random_bytes};
    const fleet_clock_t clock = {0};
    const fleet_agent_config_t config = {.device = "m4-7", .device_class = "cortex-m4", .root = given->root, .root_bytes = given->root_bytes, .flash = &flash, .transport = &transport, .crypto = &crypto, .clock = &clock, .arena = arena, .arena_bytes = sizeof arena, .answered = answered, .slot_bytes = given->slot_bytes, .components = 1, .report_interval_s = 60};
    fleet_host_print("boot\n");
    watchdog_start();
    const fleet_status_t status = fleet_agent_init(&agent, &config);
    if (status != FLEET_OK) {
        stop("init", status);
    }
    for (uint64_t now_ms = 0; kept.answered < given->inputs; now_ms += 100) {
        watchdog_feed();
        (void)fleet_agent_step(&agent, now_ms);
        watchdog_feed();
        infer(given->input[kept.answered]);
    }
    print_slots();
    return 0;
}

void fleet_reset(void) {
    memset(fleet_bss_start, 0, (uintptr_t)fleet_bss_end - (uintptr_t)fleet_bss_start);
    memcpy(fleet_data_start, fleet_data_load, (uintptr_t)fleet_data_end - (uintptr_t)fleet_data_start);
    fleet_host_exit(main());
}

typedef void (*handler_t)(void);

/* Stack, reset, NMI, HardFault: what else happens here becomes a HardFault. */
typedef struct {
    uint32_t *stack;
    handler_t handlers[15];
} vectors_t;

__attribute__((section(".vectors"), used)) static const vectors_t vectors = {
    fleet_stack_high,
    {fleet_reset, on_watchdog, on_fault, on_fault, on_fault, on_fault},
};
