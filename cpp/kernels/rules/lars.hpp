// LARS: momentum with a learning rate for each tensor, from the norms of its parameters and gradients. The ratio is 1
// where one of the norms is zero.
struct Lars : Elementwise {
    static constexpr const char* kName = "lars";
    static constexpr const char* kHypers[] = {"lr", "momentum", "weight_decay", "trust_coefficient", "eps", "nesterov"};
    enum { kLr, kMomentum, kWeightDecay, kTrustCoefficient, kEps, kNesterov };
    static constexpr State kStates[] = {{"momentum_buffer", kSigned}};
    static constexpr bool kNorms = true;
    static constexpr unsigned kNormStates = 0;

    enum : unsigned { kWithDecay = 1, kWithMomentum = 2, kWithNesterov = 4 };
    static constexpr unsigned kVariants = 8;
    static unsigned variant(const double* h, std::uint64_t) {
        return (h[kWeightDecay] != 0.0 ? kWithDecay : 0u) | (h[kMomentum] != 0.0 ? kWithMomentum : 0u) |
               (h[kNesterov] != 0.0 ? kWithNesterov : 0u);
    }
    static constexpr unsigned states(unsigned variant) { return variant & kWithMomentum ? 1u : 0u; }

    template <class T>
    struct Constants {
        T decay, momentum, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        return {T(h[kWeightDecay]), T(h[kMomentum]), T(h[kLr])};
    }

    // First pass: the two values whose squares are summed over the tensor.
    template <class T, unsigned V>
    static void direction(const Constants<T>&, T p, T g, T, T& a, T& b) {
        a = p;
        b = g;
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, double sum_a, double sum_b) {
        const double param = std::sqrt(sum_a), grad = std::sqrt(sum_b);
        const double ratio = param == 0.0 || grad == 0.0
                                 ? 1.0
                                 : h[kTrustCoefficient] * param / (grad + h[kWeightDecay] * param + h[kEps]);
        c.lr = T(h[kLr] * ratio);
    }

    // Second pass. The learning rate enters the velocity, as in the paper: a change of it works with a delay.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& velocity) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        T change = c.lr * g;
        if constexpr (V & kWithMomentum) {
            velocity = c.momentum * velocity + change;
            change = V & kWithNesterov ? change + c.momentum * velocity : velocity;
        }
        p = p - change;
    }
};
