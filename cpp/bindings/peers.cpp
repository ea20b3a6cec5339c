#include "peers.hpp"

#include <string>

namespace fusedstep {

void set_pieces(Engine& engine, const std::vector<std::pair<std::size_t, std::size_t>>& pieces,
                const std::vector<std::pair<std::size_t, std::size_t>>& buckets) {
    std::vector<Tensor>& tensors = engine.tensors;
    if (pieces.size() != tensors.size())
        throw py::value_error("pieces: got " + std::to_string(pieces.size()) + ", needs " +
                              std::to_string(tensors.size()));
    for (std::size_t i = 0; i < pieces.size(); ++i)
        if (pieces[i].first % kBlock != 0 || (pieces[i].second != 0 && tensors[i].size % kBlock != 0))
            throw py::value_error("pieces: a tensor is cut within a block of " + std::to_string(kBlock) + " elements");
    BucketEnd last{0, 0};
    for (const auto& [tensor, element] : buckets) {
        const bool within = tensor < tensors.size() ? element == 0 || element < tensors[tensor].size : element == 0;
        if (tensor > tensors.size() || !within || element % kBlock != 0 || tensor < last.tensor ||
            (tensor == last.tensor && element < last.element))
            throw py::value_error("buckets: needs ascending places between blocks");
        last = {tensor, element};
    }
    if (last.tensor != tensors.size()) throw py::value_error("buckets: the last one ends before the last tensor");
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        tensors[i].before = pieces[i].first;
        tensors[i].after = pieces[i].second;
    }
    engine.buckets.clear();
    for (const auto& [tensor, element] : buckets) engine.buckets.push_back({tensor, element});
}

}  // namespace fusedstep
