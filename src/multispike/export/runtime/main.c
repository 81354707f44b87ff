/* Classify uint8 images: one line an image, its logits and, behind a tab, the name of its class.
 *
 *     model [FILE]        FILE, or standard input: raw bytes, image after image,
 *                         [channel][row][column] each (event frames: [timestep] first),
 *                         or a NumPy file (.npy) of that layout and type uint8
 *
 * Exit code 0, 2 for bad input, 1 where the logits could not be written, both with one line on
 * standard error.
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef COUNT
#include "kernels.h"
#endif

enum { HEADER_SIZE = 10, HEADER_MAX = 4096, BAD_OUTPUT = 1, BAD_INPUT = 2 };

/* At least a header, so that a .npy file is told from pixels however small the image. */
static uint8_t input[MODEL_INPUT_BYTES > HEADER_SIZE ? MODEL_INPUT_BYTES : HEADER_SIZE];
static int32_t logits[MODEL_CLASSES];
static char header[HEADER_MAX + 1];
static long promised = -1; /* images of a .npy file, as its header has it */

static int fail(const char *message)
{
    fprintf(stderr, "model: %s\n", message);
    return BAD_INPUT;
}

/* Whether the array's shape is MODEL_LAYOUT or ends so: other layouts have as many bytes. */
static int shape_fits(void)
{
    static const char before[] = "'shape': (", layout[] = MODEL_LAYOUT ")";
    const char *start = strstr(header, before);
    const char *end = start == NULL ? NULL : strchr(start, ')');
    if (end == NULL)
        return 0;
    start += sizeof before - 1;
    if ((size_t)(end + 1 - start) < sizeof layout - 1)
        return 0;
    const char *tail = end + 1 - (sizeof layout - 1);
    if (strncmp(tail, layout, sizeof layout - 1) != 0 || (tail != start && tail[-1] != ' '))
        return 0;
    for (promised = 1; start < tail; start = strchr(start, ' ') + 1)
        promised *= strtol(start, NULL, 10);
    return 1;
}

/* Read a .npy header (version 1) up to the data. `start` bytes of it are in `input` already. */
static const char *skip_npy_header(FILE *file)
{
    const size_t size = (size_t)input[8] + ((size_t)input[9] << 8);
    if (input[6] != 1 || size > HEADER_MAX)
        return "input: not a version 1 .npy file";
    if (fread(header, 1, size, file) != size)
        return "input: the .npy header is truncated";
    header[size] = '\0';
    if (strstr(header, "'|u1'") == NULL || strstr(header, "'fortran_order': False") == NULL)
        return "input: the .npy array is not uint8 in C order";
    if (!shape_fits())
        return "input: the last axes of the .npy array are not " MODEL_LAYOUT;
    return NULL;
}

static void print_logits(void)
{
    static const char *const names[] = MODEL_CLASS_NAMES;
    int best = 0;
    for (int i = 0; i < MODEL_CLASSES; ++i) {
        printf(i + 1 < MODEL_CLASSES ? "%ld " : "%ld", (long)logits[i]);
        if (logits[i] > logits[best])
            best = i;
    }
    printf("\t%s\n", names[best]);
}

#ifdef COUNT
static void print_counts(void)
{
    for (int i = 0; synapse_counts[i].name != NULL; ++i)
        fprintf(stderr, "synapses %s %lld %lld %lld\n", synapse_counts[i].name,
                synapse_counts[i].events, synapse_counts[i].amplitude, synapse_counts[i].operations);
    for (int i = 0; neuron_counts[i].name != NULL; ++i)
        fprintf(stderr, "neurons %s %lld %lld %lld\n", neuron_counts[i].name,
                neuron_counts[i].events, neuron_counts[i].amplitude, neuron_counts[i].operations);
}
#endif

static int classify(FILE *file)
{
    size_t held = fread(input, 1, HEADER_SIZE, file);
    if (held == HEADER_SIZE && memcmp(input, "\x93NUMPY", 6) == 0) {
        const char *error = skip_npy_header(file);
        if (error != NULL)
            return fail(error);
        held = 0;
    }
    long images = 0;
    for (;;) {
        if (held < MODEL_INPUT_BYTES)
            held += fread(input + held, 1, MODEL_INPUT_BYTES - held, file);
        if (ferror(file))
            return fail("input: could not be read");
        if (held == 0)
            break;
        const size_t size = held < MODEL_INPUT_BYTES ? held : MODEL_INPUT_BYTES;
        if (model_run(input, size, logits, MODEL_CLASSES) != MODEL_OK) {
            fprintf(stderr, "model: input: image %ld has %lu bytes, allowed: %lu\n", images,
                    (unsigned long)size, (unsigned long)MODEL_INPUT_BYTES);
            return BAD_INPUT;
        }
        print_logits();
        ++images;
        held -= size;
        memmove(input, input + size, held);
    }
    if (promised >= 0 && images != promised) {
        fprintf(stderr, "model: input: holds %ld images, its header says %ld\n", images, promised);
        return BAD_INPUT;
    }
    return images > 0 ? 0 : fail("input: is empty");
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return fail("usage: model [FILE]");
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : stdin;
    if (file == NULL)
        return fail("input: no such file");
    int code = classify(file);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fail("output: could not be written");
        code = BAD_OUTPUT;
    }
    if (file != stdin)
        fclose(file);
#ifdef COUNT
    print_counts();
#endif
    return code;
}
