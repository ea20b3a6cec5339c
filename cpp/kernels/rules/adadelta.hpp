// Adadelta, as torch.optim.Adadelta.
struct Adadelta : Elementwise {
    static constexpr const char* kName = "adadelta";
    static constexpr const char* kHypers[] = {"lr", "rho", "eps", "weight_decay"};
    enum { kLr, kRho, kEps, kWeightDecay };
    static constexpr State kStates[] = {{"square_avg", kUnsigned}, {"acc_delta", kUnsigned}};

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T lr, decay, keep, take, eps;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        return {T(h[kLr]), T(h[kWeightDecay]), T(h[kRho]), T(1.0 - h[kRho]), T(h[kEps])};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& square, T& change) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        square = c.keep * square + c.take * (g * g);
        const T delta = root(change + c.eps) / root(square + c.eps) * g;
        change = c.keep * change + c.take * (delta * delta);
        p = p - c.lr * delta;
    }
};
