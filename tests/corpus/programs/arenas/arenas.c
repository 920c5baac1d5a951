// Threads that keep messages of all sizes for a while, as a native server does: each thread has an arena of glibc's
// allocator, and what is free in one arena cannot serve another. The sum of all messages does not grow.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 24, KEPT = 160 };

static void *serve(void *seed_of_thread) {
    unsigned seed = (unsigned)(size_t)seed_of_thread;
    char *kept[KEPT] = {0};
    for (;;) {
        // Most messages are small, few are large.
        size_t size = 200 + rand_r(&seed) % 2000;
        if (rand_r(&seed) % 20 == 0) size *= 1 + rand_r(&seed) % 60;
        int slot = rand_r(&seed) % KEPT;
        free(kept[slot]);
        kept[slot] = malloc(size);
        if (kept[slot]) memset(kept[slot], 1, size);
        usleep(15000 + rand_r(&seed) % 20000);
    }
}

int main(void) {
    for (size_t n = 1; n <= THREADS; n++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)n)) return 1;
        // Threads are made as connections come.
        sleep(4);
    }
    pause();
}
