// RMSprop: the gradient over the root of its running mean square, optionally centred and with momentum, as
// torch.optim.RMSprop; with the learning rate inside the velocity on request, as Keras has it.
struct RmsProp : DecayInGradient {
    static constexpr const char* kName = "rmsprop";
    static constexpr const char* kHypers[] = {"lr",       "alpha",    "eps",      "weight_decay",
                                              "momentum", "centered", "eps_root", "lr_in_momentum"};
    enum { kLr, kAlpha, kEps, kWeightDecay, kMomentum, kCentered, kEpsRoot, kLrInMomentum };
    static constexpr State kStates[] = {{"square_avg", kUnsigned}, {"momentum_buffer", kSigned}, {"grad_avg", kSigned}};

    enum : unsigned { kWithDecay = 1, kWithMomentum = 2, kWithCentre = 4 };
    static constexpr unsigned kVariants = 8;
    static unsigned variant(const double* h, std::uint64_t) {
        return (h[kWeightDecay] != 0.0 ? kWithDecay : 0u) | (h[kMomentum] != 0.0 ? kWithMomentum : 0u) |
               (h[kCentered] != 0.0 ? kWithCentre : 0u);
    }
    static constexpr unsigned states(unsigned variant) {
        return 1u | (variant & kWithMomentum ? 2u : 0u) | (variant & kWithCentre ? 4u : 0u);
    }

    static constexpr bool waits_for_divider(unsigned variant) { return !(variant & (kWithMomentum | kWithCentre)); }

    template <class T>
    struct Constants {
        T lr, decay, keep, take, momentum, eps, eps_root, lr_inside;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        const bool inside = h[kMomentum] != 0.0 && h[kLrInMomentum] != 0.0;
        return {T(inside ? 1.0 : h[kLr]), T(h[kWeightDecay]), T(h[kAlpha]),   T(1.0 - h[kAlpha]),
                T(h[kMomentum]),          T(h[kEps]),         T(h[kEpsRoot]), T(inside ? h[kLr] : 1.0)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& square, T& velocity, T& mean) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        square = c.keep * square + c.take * (g * g);
        T variance = square;
        if constexpr (V & kWithCentre) {
            mean = c.keep * mean + c.take * g;
            variance = square - mean * mean;
            // Rounding alone can make it negative where the gradient is constant.
            variance = variance < T{} ? T{} : variance;
        }
        T change = g / (root(variance + c.eps_root) + c.eps);
        if constexpr (V & kWithMomentum) {
            velocity = c.momentum * velocity + c.lr_inside * change;
            change = velocity;
        }
        p = p - c.lr * change;
    }
};
