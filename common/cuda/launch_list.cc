#include "common/cuda/launch_list.h"

#include <algorithm>
#include <cstring>

#include "common/status.h"

namespace tailor {

void LaunchList::Clear() {
  nodes_.clear();
  pieces_.clear();
  bytes_.clear();
  needs_.clear();
  trunk_.clear();
  lanes_.clear();
  lane_ = kTrunk;
  join_next_ = false;
}

void LaunchList::Add(const Launch& launch, LaunchArguments arguments) {
  constexpr size_t kAlign = 16;
  Node node = {.launch = launch,
               .first_piece = static_cast<uint32_t>(pieces_.size()),
               .pieces = static_cast<uint32_t>(arguments.size()),
               .first_byte = static_cast<uint32_t>(bytes_.size()),
               .first_need = static_cast<uint32_t>(needs_.size())};
  for (const std::span<const std::byte> argument : arguments) {
    const size_t first = bytes_.size();
    bytes_.resize(first + (argument.size() + kAlign - 1) / kAlign * kAlign);
    std::memcpy(bytes_.data() + first, argument.data(), argument.size());
    pieces_.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(argument.size())});
  }
  node.bytes = static_cast<uint32_t>(bytes_.size()) - node.first_byte;
  const Tails needs = join_next_ ? LaneTails() : tails();
  join_next_ = false;
  needs_.insert(needs_.end(), needs.begin(), needs.end());
  node.needs = static_cast<uint32_t>(needs.size());
  tails().assign(1, static_cast<uint32_t>(nodes_.size()));
  nodes_.push_back(node);
}

void LaunchList::BeginLane(int lane) {
  TS_CHECK(lane >= 0);
  lanes_.try_emplace(lane, trunk_);
  lane_ = lane;
}

LaunchList::Tails LaunchList::LaneTails() const {
  Tails all;
  for (const auto& [lane, tails] : lanes_) {
    if (tails != trunk_) all.insert(all.end(), tails.begin(), tails.end());
  }
  if (all.empty()) return trunk_;
  std::sort(all.begin(), all.end());  // after a join, lanes may have a tail in common
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

void LaunchList::EndLanes() {
  trunk_ = LaneTails();
  lanes_.clear();
  lane_ = kTrunk;
}

LaunchArguments LaunchList::Arguments(size_t i) const {
  const Node& node = nodes_[i];
  arguments_.clear();
  for (uint32_t p = node.first_piece; p < node.first_piece + node.pieces; ++p) {
    arguments_.emplace_back(bytes_.data() + pieces_[p].first, pieces_[p].bytes);
  }
  return arguments_;
}

std::span<const uint32_t> LaunchList::Needs(size_t i) const {
  return std::span(needs_).subspan(nodes_[i].first_need, nodes_[i].needs);
}

bool LaunchList::SameStructure(const LaunchList& other) const {
  const auto same = [](const Node& a, const Node& b) {
    return a.launch.kernel == b.launch.kernel && a.launch.threads == b.launch.threads &&
           a.needs == b.needs && a.pieces == b.pieces;
  };
  return std::equal(nodes_.begin(), nodes_.end(), other.nodes_.begin(), other.nodes_.end(), same) &&
         needs_ == other.needs_ && pieces_ == other.pieces_;
}

bool LaunchList::Differs(size_t i, const LaunchList& other) const {
  const Node &a = nodes_[i], &b = other.nodes_[i];
  return a.launch.grid != b.launch.grid || a.launch.shared_bytes != b.launch.shared_bytes ||
         std::memcmp(bytes_.data() + a.first_byte, other.bytes_.data() + b.first_byte, a.bytes) !=
             0;
}

}  // namespace tailor
