// An optimizer step as an XLA program calls it: on XLA's own thread, without Python, in the memory of its arguments.
#pragma once
#include "ffi.hpp"

namespace fusedstep::xla {

// The handler. Its contract with python/fusedstep/jax/_call.py:
//
// Arguments: the traced numbers (scalars); what is stepped in place (below); one gradient for each tensor.
// Results: what is stepped in place, each in the memory of its argument:
//   step               int32 or int64 (): steps taken
//   scalars            uint32 (rule's scalars, 2): bits of doubles, low word first; only where the rule has some
//   skipped            int32 (): steps skipped; only with kSkipNonfinite
//   grad_norm          float32 (): of the last step; only with kMeasureNorm
//   nonfinite_blocks   int32 (): 8-bit blocks that held an infinity or NaN in the last step; only with kCountNonfinite
//   arrays             states, masters and averages, those of all tensors of one dtype one behind the other
//   parameters         one for each tensor
// Attributes:
//   rule       its name
//   values     float64: grad_scale, max_grad_norm (0: none), clip_value, ema_decay, then each group's hyper-parameters
//   traced     int64 pairs: the number of a traced argument and its place in `values`
//   ranges     float64 pairs: the least and the largest allowed value of each traced argument
//   needs      two lines for each traced argument: its name, and the range in words
//   tensors    int64, a row for each tensor: its group; then for master, each of the rule's states and average: number
//              of the array that holds it and first element there, and the same for an 8-bit state's scales (-1: none)
//   paths      a line for each tensor, for messages
//   arrays     a line for each array, for messages
//   flags      int64: Flags
//   seed       int64: of the noise of stochastic rounding, as its bits
enum Flags : std::int64_t {
    kMaximize = 1,
    kSkipNonfinite = 2,
    kStochastic = 4,
    kMeasureNorm = 8,
    kCountNonfinite = 16,
    kCautious = 32
};

Error* step(CallFrame* call) noexcept;

}  // namespace fusedstep::xla
