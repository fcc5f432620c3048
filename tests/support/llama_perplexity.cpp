// The main program of llama-perplexity, which ends only after everything was printed.
//
// llama.cpp prints from a thread of its own, and its main program does not wait for it: the last lines are lost where
// the model is small or the machine is busy.

#include "log.h"

int llama_perplexity(int argc, char ** argv);

int main(int argc, char ** argv) {
    const int status = llama_perplexity(argc, argv);
    common_log_flush(common_log_main());
    return status;
}
