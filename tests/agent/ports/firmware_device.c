/*
 * One agent on this machine's ports whose firmware is a component: two slot files stand for MCUboot's. It ends with RESET_ASKED when
 * the agent asks for a reset, so that a bootloader can have its turn. A file `self-test` holds what the self-test says: without one
 * it passes. Arguments: folder, port of the broker, device id. The folder holds ca.pem, cert.pem, key.pem and root.cbor.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "fleet_agent.h"
#include "fleet_posix.h"

enum { RESET_ASKED = 3, UNUSABLE = 4, ERASE_BYTES = 2048, PROGRAM_BYTES = 8, SLOT_BYTES = 8192, ARENA_BYTES = 1024, INPUT_BYTES = 72, STEP_MS = 20 };

typedef struct {
    const char *folder;
    bool reset_asked;
    bool passed_told;
} board_t;

static const char *path_of(const board_t *board, const char *name, char path[FLEET_POSIX_PATH_BYTES]) {
    (void)snprintf(path, FLEET_POSIX_PATH_BYTES, "%s/%s", board->folder, name);
    return path;
}

static void say(const char *text) {
    (void)printf("%s\n", text);
    (void)fflush(stdout);
}

static int self_test(void *ctx) {
    board_t *board = ctx;
    char path[FLEET_POSIX_PATH_BYTES];
    int result = FLEET_OK;
    FILE *file = fopen(path_of(board, "self-test", path), "r");
    if (file != NULL) {
        result = fscanf(file, "%d", &result) == 1 ? result : FLEET_SELF_TEST_PENDING;
        (void)fclose(file);
    }
    if (result == FLEET_OK && !board->passed_told) {
        board->passed_told = true;
        say("self-test passed");
    }
    return result;
}

static void ask_for_reset(void *ctx) {
    ((board_t *)ctx)->reset_asked = true;
}

static bool open_flash(fleet_posix_flash_t *flash, const board_t *board, const char *name, uint32_t size) {
    char path[FLEET_POSIX_PATH_BYTES];
    *flash = (fleet_posix_flash_t){.size = size, .erase_bytes = ERASE_BYTES, .program_bytes = PROGRAM_BYTES};
    return fleet_posix_flash_open(flash, path_of(board, name, path)) == FLEET_OK;
}

static uint32_t read_root(const board_t *board, uint8_t *root, size_t most) {
    char path[FLEET_POSIX_PATH_BYTES];
    FILE *file = fopen(path_of(board, "root.cbor", path), "rb");
    const size_t bytes = file != NULL ? fread(root, 1, most, file) : 0;
    if (file != NULL) {
        (void)fclose(file);
    }
    return (uint32_t)bytes;
}

static void infer(fleet_agent_t *agent) {
    static const int8_t zeros[INPUT_BYTES];
    const fleet_input_t input = {zeros, sizeof zeros, FLEET_INPUT_RAW};
    fleet_answer_t answer = {0};
    uint32_t id;
    (void)fleet_agent_infer(agent, 0, &input, &answer, &id); /* without a model nothing answers */
}

static int run(fleet_agent_t *agent, const board_t *board, fleet_posix_tls_t *tls) {
    bool offline_told = false;
    while (!board->reset_asked) {
        (void)fleet_agent_step(agent, fleet_posix_now_ms());
        infer(agent);
        if (tls->error[0] != '\0' && !offline_told) {
            offline_told = true;
            say("offline");
        }
        struct pollfd wait = {fleet_posix_tls_socket(tls), fleet_posix_tls_events(tls), 0};
        (void)poll(&wait, 1, STEP_MS);
    }
    return RESET_ASKED;
}

int main(int count, char **arguments) {
    static fleet_agent_t agent;
    static uint64_t arena[ARENA_BYTES / 8 + 2];
    static uint8_t root[1024];
    static char ca[FLEET_POSIX_PATH_BYTES], cert[FLEET_POSIX_PATH_BYTES], key[FLEET_POSIX_PATH_BYTES];
    if (count != 4 || signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
        return UNUSABLE;
    }
    board_t board = {arguments[1], false, false};
    fleet_posix_flash_t flash, primary, secondary;
    const fleet_flash_t geometry = {.erase_bytes = ERASE_BYTES, .program_bytes = PROGRAM_BYTES, .size = UINT32_MAX};
    if (!open_flash(&flash, &board, "flash.bin", fleet_agent_flash_bytes(&geometry, SLOT_BYTES, 1)) ||
        !open_flash(&primary, &board, "primary.bin", SLOT_BYTES) || !open_flash(&secondary, &board, "secondary.bin", SLOT_BYTES)) {
        return UNUSABLE;
    }
    const fleet_flash_t ports[] = {fleet_posix_flash_port(&flash), fleet_posix_flash_port(&primary), fleet_posix_flash_port(&secondary)};
    fleet_posix_crypto_t crypto;
    fleet_posix_crypto_open(&crypto, path_of(&board, "key.pem", key));
    const fleet_crypto_t crypto_port = fleet_posix_crypto_port(&crypto);
    const fleet_posix_tls_config_t link = {"127.0.0.1", arguments[2], path_of(&board, "ca.pem", ca), path_of(&board, "cert.pem", cert), key};
    fleet_posix_tls_t tls;
    fleet_posix_tls_open(&tls, &link);
    const fleet_transport_t transport = fleet_posix_tls_port(&tls);
    fleet_clock_t clock = fleet_posix_clock();
    clock.reset = ask_for_reset;
    clock.ctx = &board;
    const fleet_firmware_t firmware = {&ports[1], &ports[2], self_test, &board};
    const fleet_agent_config_t config = {
        .device = arguments[3],
        .device_class = "host",
        .root = root,
        .root_bytes = read_root(&board, root, sizeof root),
        .flash = &ports[0],
        .transport = &transport,
        .crypto = &crypto_port,
        .clock = &clock,
        .firmware = &firmware,
        .arena = (uint8_t *)(((uintptr_t)arena + 15u) & ~(uintptr_t)15u),
        .arena_bytes = ARENA_BYTES,
        .slot_bytes = SLOT_BYTES,
        .components = 1,
        .report_interval_s = 1,
    };
    const fleet_status_t status = fleet_agent_init(&agent, &config);
    if (status != FLEET_OK) {
        say(fleet_status_text(status));
        return UNUSABLE;
    }
    return run(&agent, &board, &tls);
}
