// Runs a fuzz target without libFuzzer: its seeds and a fixed sequence of changed inputs.
//   TARGET                    seeds, the files of tests/fuzz/corpus/TARGET, then changed inputs
//   TARGET FILE...            these inputs only
//   TARGET --write-seeds DIR  a corpus to start libFuzzer from
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/mutate.h"

namespace tailor {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxInputs = 200'000;
constexpr std::chrono::milliseconds kMaxTime{2000};

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

void WriteAll(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<int64_t>(bytes.size()));
}

// From a block of exactly its size: a sanitizer sees the first byte read past it.
void RunOne(const std::string& input) {
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::vector<std::string> SeedsAndCorpus(const std::string& target) {
  std::vector<std::string> seeds = Seeds();
  const fs::path corpus = fs::path(TAILOR_SOURCE_DIR) / "tests/fuzz/corpus" / target;
  std::vector<fs::path> files;
  if (fs::exists(corpus)) {
    for (const auto& entry : fs::directory_iterator(corpus)) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());  // the sequence must not depend on the file system
  for (const fs::path& file : files) seeds.push_back(ReadAll(file));
  return seeds;
}

// Stops after kMaxTime: how many inputs that is differs, which they are does not.
void RunAll(const std::vector<std::string>& seeds, std::atomic<uint64_t>& number) {
  const auto start = std::chrono::steady_clock::now();
  for (; number < kMaxInputs; ++number) {
    if (number > seeds.size() && std::chrono::steady_clock::now() - start > kMaxTime) return;
    RunOne(NumberedInput(seeds, number));
  }
}

// In a child, so that the parent can say which input it was, whatever the death.
int RunInChild(const std::string& target) {
  const std::vector<std::string> seeds = SeedsAndCorpus(target);
  void* shared = ::mmap(nullptr, sizeof(std::atomic<uint64_t>), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 2;
  auto* number = new (shared) std::atomic<uint64_t>(0);
  const pid_t child = ::fork();
  if (child == 0) {
    RunAll(seeds, *number);
    std::exit(0);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child) return 2;
  const uint64_t last = *number;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    std::printf("%s: %llu inputs\n", target.c_str(), static_cast<unsigned long long>(last));
    return 0;
  }
  const std::string file = "crash-" + target;
  WriteAll(file, NumberedInput(seeds, last));
  std::fprintf(stderr, "%s: input %llu ended it; written to %s, run with that as argument\n",
               target.c_str(), static_cast<unsigned long long>(last), file.c_str());
  return 1;
}

int Main(int argc, char** argv) {
  const std::string target = fs::path(argv[0]).filename().string();
  if (argc == 1) return RunInChild(target);
  if (argc == 3 && std::strcmp(argv[1], "--write-seeds") == 0) {
    fs::create_directories(argv[2]);
    const std::vector<std::string> seeds = SeedsAndCorpus(target);
    for (size_t i = 0; i < seeds.size(); ++i) {
      WriteAll(fs::path(argv[2]) / ("seed-" + std::to_string(i)), seeds[i]);
    }
    return 0;
  }
  for (int i = 1; i < argc; ++i) RunOne(ReadAll(argv[i]));
  return 0;
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) { return tailor::Main(argc, argv); }
