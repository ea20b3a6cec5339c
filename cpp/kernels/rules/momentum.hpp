// Gradient descent along the exponentially weighted average of the gradients (the form taught in courses: unlike SGD's
// velocity it does not grow with beta), with Adam's bias correction on request.
struct Momentum : DecayInGradient {
    static constexpr const char* kName = "momentum";
    static constexpr const char* kHypers[] = {"lr", "beta", "bias_correction", "weight_decay"};
    enum { kLr, kBeta, kBiasCorrection, kWeightDecay };
    static constexpr State kStates[] = {{"exp_avg", kSigned}};

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T lr, decay, keep, take;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double correction = h[kBiasCorrection] != 0.0 ? 1.0 - power(h[kBeta], step) : 1.0;
        return {T(h[kLr] / correction), T(h[kWeightDecay]), T(h[kBeta]), T(1.0 - h[kBeta])};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        m = c.keep * m + c.take * g;
        p = p - c.lr * m;
    }
};
