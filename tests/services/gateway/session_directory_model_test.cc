// The directory against a std::map, through restarts, and through processes that are killed.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include <functional>
#include <map>
#include <random>

#include "tests/services/gateway/session_directory_fixture.h"

namespace tailor {
namespace {

using ::testing::ElementsAre;
using SessionDirectoryModelTest = SessionDirectoryFixture;

// A child appends numbered pairs and reports each number after Append returned; it is killed at a
// random number. Everything it reported must be there, in pairs.
TEST_F(SessionDirectoryModelTest, AKilledProcessLosesNothingThatWasAcknowledged) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  int32_t acknowledged = -1;
  for (int round = 0; round < 3; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const int32_t begin = acknowledged + 1;
    const pid_t child = fork();
    if (child == 0) {
      const auto directory = *SessionDirectory::Open(path_, Durability::kProcess);
      (void)directory->Create(Session("s"));
      for (int32_t i = begin;; ++i) {
        const std::vector<SessionEntry> pair = {
            Entry(EntryRole::kUser, std::string(3000, 'u'), {i, 0}),
            Entry(EntryRole::kAssistant, std::string(3000, 'a'), {i, 1})};
        if (!directory->Append("s", pair).ok()) _exit(1);
        if (write(pipe_ends[1], &i, sizeof i) != sizeof i) _exit(1);
      }
    }
    close(pipe_ends[1]);
    const int32_t last = begin + static_cast<int32_t>(20 + random() % 200);
    while (acknowledged < last && read(pipe_ends[0], &acknowledged, sizeof acknowledged) > 0) {
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    for (int32_t i; read(pipe_ends[0], &i, sizeof i) == sizeof i;) acknowledged = i;
    close(pipe_ends[0]);
    ASSERT_GE(acknowledged, last) << "the child ended by itself";

    const auto directory = Open();
    const auto entries = directory->Entries("s");
    ASSERT_TRUE(entries.ok()) << entries.status();
    ASSERT_EQ(entries->size() % 2, 0u) << "half a turn";
    const auto pairs = static_cast<int32_t>(entries->size() / 2);
    ASSERT_GE(pairs, acknowledged + 1);
    ASSERT_LE(pairs, acknowledged + 2) << "at most one was written and not yet acknowledged";
    for (int32_t i = 0; i < pairs; ++i) {
      ASSERT_THAT((*entries)[2 * i].tokens, ElementsAre(i, 0));
      ASSERT_THAT((*entries)[2 * i + 1].tokens, ElementsAre(i, 1));
    }
    acknowledged = pairs - 1;
  }
}

// Against a std::map, with restarts.
class Model {
 public:
  Model(std::function<std::unique_ptr<SessionDirectory>()> open, uint64_t seed)
      : open_(std::move(open)), random_(seed), directory_(open_()) {}

  void Step() {
    const std::string id = RandomId();
    switch (random_() % 10) {
      case 0:
      case 1:
        Create(id);
        break;
      case 2:
        Fork(id, RandomId());
        break;
      case 3:
        Delete(id);
        break;
      case 4:
        directory_.reset();
        directory_ = open_();
        break;
      default:
        Append(id);
        break;
    }
  }

  void ExpectSameAsModel() {
    const auto listed = Ids(directory_->List(1000, std::nullopt));
    ASSERT_EQ(listed.size(), model_.size());
    for (const auto& [id, entries] : model_) {
      const auto got = directory_->Entries(id);
      ASSERT_TRUE(got.ok()) << id << ": " << got.status();
      ASSERT_EQ(got->size(), entries.size()) << id;
      int64_t tokens = 0;
      for (size_t i = 0; i < entries.size(); ++i) {
        ExpectSame((*got)[i], entries[i]);
        tokens += static_cast<int64_t>(entries[i].tokens.size());
      }
      EXPECT_EQ(directory_->Get(id)->tokens, tokens) << id;
      EXPECT_EQ(directory_->Get(id)->entries, static_cast<int32_t>(entries.size())) << id;
    }
  }

 private:
  std::string RandomId() { return "s" + std::to_string(random_() % 6); }
  void Create(const std::string& id) {
    EXPECT_EQ(directory_->Create(Session(id)).ok(), !model_.contains(id));
    model_.try_emplace(id);
  }
  void Fork(const std::string& parent, const std::string& child) {
    const bool possible = model_.contains(parent) && !model_.contains(child);
    EXPECT_EQ(directory_->Fork(parent, Session(child)).ok(), possible) << parent << " " << child;
    if (possible) model_[child] = model_[parent];
  }
  void Delete(const std::string& id) {
    EXPECT_EQ(directory_->Delete(id).ok(), model_.erase(id) > 0);
  }
  void Append(const std::string& id) {
    std::vector<SessionEntry> entries;
    for (size_t i = random_() % 3; i > 0; --i) {
      std::vector<TokenId> tokens(random_() % 5);
      for (TokenId& token : tokens) token = static_cast<TokenId>(random_());
      const auto role = static_cast<EntryRole>(1 + random_() % 4);
      entries.push_back(Entry(role, std::to_string(random_()), tokens));
    }
    EXPECT_EQ(directory_->Append(id, entries).ok(), model_.contains(id)) << id;
    if (!model_.contains(id)) return;
    model_[id].insert(model_[id].end(), entries.begin(), entries.end());
  }

  const std::function<std::unique_ptr<SessionDirectory>()> open_;
  std::mt19937_64 random_;
  std::unique_ptr<SessionDirectory> directory_;
  std::map<std::string, std::vector<SessionEntry>> model_;
};

TEST_F(SessionDirectoryModelTest, RandomOperationsWithRestartsKeepToAMap) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Model model([this] { return Open(); }, seed);
  for (int step = 0; step < 600; ++step) {
    model.Step();
    if (step % 20 == 19) model.ExpectSameAsModel();
    if (HasFailure()) FAIL() << "at step " << step;
  }
}

}  // namespace
}  // namespace tailor
