// The launches of one step as data: kernels with their arguments, and which has to wait for which.
// One after the other, but for lanes: branches that may run side by side. Knows nothing of CUDA.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "common/cuda/launch.h"

namespace tailor {

class LaunchList {
 public:
  void Clear();
  // After the last launch of the lane it is in; see BeginLane.
  void Add(const Launch& launch, LaunchArguments arguments);

  // Launches from now on are of this lane: after those of the lane so far, and after everything
  // that was there before the first lane. A lane may be gone on with until EndLanes.
  void BeginLane(int lane);
  // What comes next waits for every lane.
  void EndLanes();
  // The next launch waits for all that were added so far, of other lanes too.
  void JoinNext() { join_next_ = true; }

  size_t size() const { return nodes_.size(); }
  const Launch& launch(size_t i) const { return nodes_[i].launch; }
  LaunchArguments Arguments(size_t i) const;  // valid until the next Arguments, Add or Clear
  // Indices below i, ascending.
  std::span<const uint32_t> Needs(size_t i) const;

  // Whether `other` is the same kernels in the same order, with the same blocks and needs: all that
  // an instantiated graph can't change.
  bool SameStructure(const LaunchList& other) const;
  // Of lists with the same structure: whether launch i has another grid, shared memory or argument.
  bool Differs(size_t i, const LaunchList& other) const;

 private:
  struct Node {
    Launch launch;
    uint32_t first_piece = 0, pieces = 0;
    uint32_t first_byte = 0, bytes = 0;
    uint32_t first_need = 0, needs = 0;
  };
  struct Piece {
    uint32_t first = 0, bytes = 0;
    friend bool operator==(const Piece&, const Piece&) = default;
  };
  using Tails = std::vector<uint32_t>;
  static constexpr int kTrunk = -1;
  Tails LaneTails() const;  // of all lanes; the trunk's where nothing was added to any
  Tails& tails() { return lane_ == kTrunk ? trunk_ : lanes_[lane_]; }

  std::vector<Node> nodes_;
  std::vector<Piece> pieces_;     // of bytes_
  std::vector<std::byte> bytes_;  // arguments, each aligned to 16
  std::vector<uint32_t> needs_;
  Tails trunk_;                 // the last launches outside lanes
  std::map<int, Tails> lanes_;  // since the last EndLanes
  int lane_ = kTrunk;           // that launches are added to
  bool join_next_ = false;
  mutable std::vector<std::span<const std::byte>> arguments_;
};

}  // namespace tailor
