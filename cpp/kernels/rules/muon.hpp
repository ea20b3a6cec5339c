// Muon: momentum whose matrices are made orthogonal before the step. The momentum is an average, not a sum, as in
// torch.optim.Muon, so that eps means the same for every momentum.
//
// The rule is what happens in memory: aim() makes the direction, of norm 1 at most, and update() takes the step along
// what the caller has made of it. Both advance the momentum, and only update() stores it: until then nothing has
// changed.
struct Muon : Elementwise {
    static constexpr const char* kName = "muon";
    static constexpr const char* kHypers[] = {"lr", "weight_decay", "momentum", "nesterov", "eps"};
    enum { kLr, kWeightDecay, kMomentum, kNesterov, kEps };
    static constexpr State kStates[] = {{"momentum_buffer", kSigned}};
    static constexpr bool kNorms = true;
    static constexpr bool kNormParam = false;
    static constexpr int kSums = 1;
    static constexpr bool kProduct = true;

    enum : unsigned { kWithNesterov = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kNesterov] != 0.0 ? kWithNesterov : 0u; }
    template <class T>
    struct Constants {
        T shrink, lr, keep, take, norm;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]), T(h[kLr]), T(h[kMomentum]), T(1.0 - h[kMomentum]), T(1.0)};
    }

    // Advances the momentum and returns the direction before it is scaled.
    template <class T, unsigned V>
    static T advance(const Constants<T>& c, T g, T& m) {
        const T part = c.take * g;
        m = c.keep * m + part;
        return V & kWithNesterov ? part + c.keep * m : m;
    }

    // First pass: what is squared and summed over the tensor. The momentum stays as it is.
    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T, T g, T m, T& a, T&) {
        a = advance<T, V>(c, g, m);
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, double sum, double) {
        const double norm = std::sqrt(sum);
        const T divisor = T(norm > h[kEps] ? norm : norm <= h[kEps] ? h[kEps] : norm);  // NaN stays NaN
        c.norm = divisor == T{} ? T(1.0) : divisor;
    }

    // Second pass: the direction for the caller.
    template <class T, unsigned V>
    static T aim(const Constants<T>& c, T g, T m) {
        return advance<T, V>(c, g, m) / c.norm;
    }

    // Third pass, along what the caller has made of it.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T u) {
        static_cast<void>(advance<T, V>(c, g, m));
        p = p * c.shrink - c.lr * u;
    }
};
