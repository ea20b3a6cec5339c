// Stochastic gradient descent with heavy-ball momentum, as torch.optim.SGD; with the learning rate inside the velocity
// on request, as Keras has it.
struct Sgd : DecayInGradient {
    static constexpr const char* kName = "sgd";
    static constexpr const char* kHypers[] = {"lr",           "momentum", "dampening",
                                              "weight_decay", "nesterov", "lr_in_momentum"};
    enum { kLr, kMomentum, kDampening, kWeightDecay, kNesterov, kLrInMomentum };
    static constexpr State kStates[] = {{"momentum_buffer", kSigned}};

    enum : unsigned { kWithDecay = 1, kWithMomentum = 2, kWithNesterov = 4 };
    static constexpr unsigned kVariants = 8;
    static unsigned variant(const double* h, std::uint64_t) {
        return (h[kWeightDecay] != 0.0 ? kWithDecay : 0u) | (h[kMomentum] != 0.0 ? kWithMomentum : 0u) |
               (h[kNesterov] != 0.0 ? kWithNesterov : 0u);
    }
    static constexpr unsigned states(unsigned variant) { return variant & kWithMomentum ? 1u : 0u; }

    template <class T>
    struct Constants {
        T lr, decay, momentum, keep, take, look;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const T decay = T(h[kWeightDecay]), momentum = T(h[kMomentum]);
        if (h[kMomentum] != 0.0 && h[kLrInMomentum] != 0.0)  // the velocity is the change itself: p = p - (-1) * v
            return {T(-1.0), decay, momentum, momentum, T(-(h[kLr] * (1.0 - h[kDampening]))), T(-h[kLr])};
        const bool first = step <= 1;  // the velocity starts as the gradient itself, undampened
        return {T(h[kLr]), decay, momentum, T(first ? 0.0 : h[kMomentum]), T(first ? 1.0 : 1.0 - h[kDampening]),
                T(1.0)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& velocity) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        if constexpr (V & kWithMomentum) {
            velocity = c.keep * velocity + c.take * g;
            g = V & kWithNesterov ? c.look * g + c.momentum * velocity : velocity;
        }
        p = p - c.lr * g;
    }
};
