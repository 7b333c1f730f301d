#include "worker/turn_sampler.h"

namespace tailor {

std::span<const Sample> TurnSampler::Draw(MatrixView<const float> logits,
                                          std::span<Turn* const> turns) {
  queries_.clear();
  for (const Turn* turn : turns) {
    queries_.push_back(turn != nullptr ? turn->sampler->query() : LogitQuery{});
  }
  reduced_.resize(turns.size());
  samples_.assign(turns.size(), {});
  backend_.ReduceLogits(logits, queries_, reduced_);
  for (size_t i = 0; i < turns.size(); ++i) {
    if (turns[i] == nullptr) continue;
    Sampler& sampler = *turns[i]->sampler;
    const int64_t position = turns[i]->total_tokens();
    const auto drawn = sampler.Next(reduced_[i], position);
    samples_[i] =
        drawn.has_value()
            ? *drawn
            : sampler.Next(reduced_[i],
                           backend_.ReadBack(logits.row(static_cast<int64_t>(i)), &row_), position);
  }
  return samples_;
}

}  // namespace tailor
