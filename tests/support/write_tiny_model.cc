// write_tiny_model PATH: the tiny model in a file, for tests that start processes.
#include <cstdio>

#include "tests/support/tiny_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_tiny_model PATH\n");
    return 2;
  }
  // Layer 0 is quantized, layer 1 sparse; no token is all but certain, so that answers can differ.
  tailor::WriteTinyModel(argv[1], {.layers = 2, .context_tokens = 4096, .embedding_scale = 0.1f});
  return 0;
}
