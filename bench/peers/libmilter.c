/*
 * The same milter on Sendmail's libmilter: `libmilter VARIANT ADDRESS`, where VARIANT is full, noreply or addheader. Every
 * callback is there and lets everything pass. Prints where it listens, and ends when its standard input does.
 *
 *   gcc -O2 -o libmilter libmilter.c -lmilter -lpthread
 */
#include <libmilter/mfapi.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int no_reply, adds_header;

/* What was negotiated not to be answered must not be answered. */
static sfsistat quiet(void)
{
    return no_reply ? SMFIS_NOREPLY : SMFIS_CONTINUE;
}

static sfsistat bench_connect(SMFICTX *ctx, char *hostname, _SOCK_ADDR *address)
{
    (void)ctx, (void)hostname, (void)address;
    return SMFIS_CONTINUE;
}

static sfsistat bench_text(SMFICTX *ctx, char *text)
{
    (void)ctx, (void)text;
    return SMFIS_CONTINUE;
}

static sfsistat bench_unknown(SMFICTX *ctx, const char *line)
{
    (void)ctx, (void)line;
    return SMFIS_CONTINUE;
}

static sfsistat bench_texts(SMFICTX *ctx, char **texts)
{
    (void)ctx, (void)texts;
    return SMFIS_CONTINUE;
}

static sfsistat bench_plain(SMFICTX *ctx)
{
    (void)ctx;
    return SMFIS_CONTINUE;
}

static sfsistat bench_header(SMFICTX *ctx, char *name, char *value)
{
    (void)ctx, (void)name, (void)value;
    return quiet();
}

static sfsistat bench_eoh(SMFICTX *ctx)
{
    (void)ctx;
    return quiet();
}

static sfsistat bench_body(SMFICTX *ctx, unsigned char *chunk, size_t length)
{
    (void)ctx, (void)chunk, (void)length;
    return quiet();
}

static sfsistat bench_eom(SMFICTX *ctx)
{
    char name[] = "X-Bench", value[] = "seen";

    if (adds_header && smfi_addheader(ctx, name, value) != MI_SUCCESS) return SMFIS_TEMPFAIL;
    return SMFIS_CONTINUE;
}

static sfsistat bench_negotiate(SMFICTX *ctx, unsigned long actions, unsigned long steps, unsigned long unused0,
    unsigned long unused1, unsigned long *own_actions, unsigned long *own_steps, unsigned long *own0, unsigned long *own1)
{
    (void)ctx, (void)actions, (void)unused0, (void)unused1;
    *own_actions = adds_header ? SMFIF_ADDHDRS : 0;
    *own_steps = no_reply ? steps & (SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY) : 0;
    *own0 = *own1 = 0;
    return SMFIS_CONTINUE;
}

/* libmilter's own way to stop takes seconds. */
static void *end_with_input(void *unused)
{
    char byte;

    while (read(STDIN_FILENO, &byte, 1) > 0) continue;
    _exit(0);
    return unused;
}

int main(int argc, char **argv)
{
    struct smfiDesc description = {
        .xxfi_name = "bench",
        .xxfi_version = SMFI_VERSION,
        .xxfi_connect = bench_connect,
        .xxfi_helo = bench_text,
        .xxfi_envfrom = bench_texts,
        .xxfi_envrcpt = bench_texts,
        .xxfi_data = bench_plain,
        .xxfi_header = bench_header,
        .xxfi_eoh = bench_eoh,
        .xxfi_body = bench_body,
        .xxfi_eom = bench_eom,
        .xxfi_abort = bench_plain,
        .xxfi_close = bench_plain,
        .xxfi_unknown = bench_unknown,
        .xxfi_negotiate = bench_negotiate,
    };
    pthread_t watcher;

    if (argc != 3) return 2;
    no_reply = strcmp(argv[1], "noreply") == 0;
    adds_header = strcmp(argv[1], "addheader") == 0;
    if (adds_header) description.xxfi_flags = SMFIF_ADDHDRS;
    if (smfi_setconn(argv[2]) != MI_SUCCESS || smfi_register(description) != MI_SUCCESS) return 1;
    if (smfi_opensocket(1) != MI_SUCCESS) return 1;
    puts(argv[2]);
    fflush(stdout);
    if (pthread_create(&watcher, NULL, end_with_input, NULL) != 0) return 1;
    return smfi_main();
}
